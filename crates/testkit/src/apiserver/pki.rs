//! The keys and certificates of an API server.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The attribute `organizationName` by number: a name holds each kind of attribute once, and by number it is another kind.
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
/// Host names and addresses of the server.
const NAMES: [&str; 5] = [
    "127.0.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];

/// Signs the server's certificate and those of its clients.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Makes everything that the server needs, as files: `ca.crt`, `apiserver.crt`, `apiserver.key`, `sa.key`, `sa.pub`.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = named("kubernetes", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?.pem();
        let authority = Self {
            issuer: Issuer::new(params, key),
            certificate,
        };
        let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
        params.distinguished_name = name("kube-apiserver", &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (server, server_key) = authority.sign(params)?;
        let accounts = KeyPair::generate()?;
        for (file, text) in [
            ("ca.crt", &authority.certificate),
            ("apiserver.crt", &server),
            ("apiserver.key", &server_key),
            ("sa.key", &accounts.serialize_pem()),
            ("sa.pub", &accounts.public_key_pem()),
        ] {
            std::fs::write(directory.join(file), text).with_context(|| format!("cannot write {file}"))?;
        }
        Ok(authority)
    }

    /// Its own certificate, PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Certificate and key of a client, PEM.
    pub(super) fn client(&self, user: &str, groups: &[&str]) -> Result<(String, String)> {
        let mut params = named(user, groups)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

fn named(common: &str, groups: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common, groups)?;
    Ok(params)
}

fn name(common: &str, groups: &[&str]) -> Result<DistinguishedName> {
    let mut name = DistinguishedName::new();
    for (index, group) in groups.iter().enumerate() {
        let kind = match index {
            0 => DnType::OrganizationName,
            1 => DnType::CustomDnType(ORGANIZATION.to_vec()),
            _ => bail!("a client certificate names at most two groups"),
        };
        name.push(kind, *group);
    }
    name.push(DnType::CommonName, common);
    Ok(name)
}
