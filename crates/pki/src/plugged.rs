//! A CA plugged in from files, in the form of Istio's `cacerts` secret.

use std::fmt;
use std::time::SystemTime;

use crate::bundle::{TrustBundle, VerifyError};
use crate::certificate::{Certificate, CertificateError, Chain, Serial};
use crate::crl::{RevocationError, RevocationList};
use crate::key::{KeyError, PrivateKey};
use crate::rotation::Validity;
use crate::signing::{IssueError, SigningCa};

/// The contents of the files that make up a CA. `ca-cert.pem` signs, `cert-chain.pem` leads from it to a root (and may
/// be empty where the root itself signs), `root-cert.pem` holds the root, or several.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaFiles<'a> {
    /// `ca-cert.pem`.
    pub ca_cert: &'a [u8],
    /// `ca-key.pem`.
    pub ca_key: &'a [u8],
    /// `root-cert.pem`.
    pub root_cert: &'a [u8],
    /// `cert-chain.pem`.
    pub cert_chain: &'a [u8],
}

/// One of the files of a CA cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct CaFileError {
    /// The file's name, e.g. `ca-key.pem`.
    pub file: &'static str,
    /// What is wrong with it.
    #[source]
    pub problem: CaFileProblem,
}

/// What is wrong with a file of a CA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaFileProblem {
    /// It holds no usable certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It holds no usable key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It holds several certificates where one is meant.
    #[error("it holds {0} certificates where only the signing one is meant; the others belong in cert-chain.pem")]
    NotOne(usize),
    /// The key is another one than the certificate's.
    #[error("the key is not the one that ca-cert.pem certifies: take the two that belong together")]
    KeyMismatch,
    /// The certificate is not a CA's.
    #[error("`{0}` is not a CA's certificate: its basic constraints must say CA:TRUE")]
    NotCa(String),
    /// The certificate may not sign others.
    #[error("`{0}` may not sign certificates: its key usage must contain keyCertSign")]
    MayNotSign(String),
    /// The certificate is not valid at this time.
    #[error("`{0}` has expired or is not valid yet: replace it")]
    NotValidNow(String),
    /// What the CA signs does not lead to a root.
    #[error("certificates of ca-cert.pem do not lead to a root in root-cert.pem over cert-chain.pem: {0}")]
    Chain(VerifyError),
    /// It holds no usable revocation list.
    #[error(transparent)]
    Revoked(#[from] RevocationError),
    /// With the revocation lists, nothing that the CA signs is trusted.
    #[error("with it, no certificate of ca-cert.pem is trusted: {0}")]
    RevokesAll(VerifyError),
    /// The CA cannot sign.
    #[error("a certificate signed on trial failed: {0}")]
    Trial(IssueError),
}

impl fmt::Debug for CaFiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaFiles(content withheld)")
    }
}

impl SigningCa {
    /// Loads a CA from the contents of its files and checks that it works at `now`: key and certificate belong
    /// together, every certificate is a CA's and valid, and a certificate signed on trial leads to a root.
    ///
    /// # Errors
    /// When any of that is not so; the error names the file.
    pub fn from_files(files: CaFiles<'_>, now: SystemTime) -> Result<Self, CaFileError> {
        let at = |file: &'static str| move |problem: CaFileProblem| CaFileError { file, problem };
        let certificate = ca_certificate(files.ca_cert, now).map_err(at("ca-cert.pem"))?;
        let key = PrivateKey::from_pem(files.ca_key).map_err(|error| at("ca-key.pem")(error.into()))?;
        if key.public_key().to_spki() != certificate.spki() {
            return Err(at("ca-key.pem")(CaFileProblem::KeyMismatch));
        }
        let roots = roots(files.root_cert, now).map_err(at("root-cert.pem"))?;
        let intermediates = intermediates(files.cert_chain, &certificate, &roots, now).map_err(at("cert-chain.pem"))?;
        let end = end_of_path(&certificate, &intermediates, &roots);
        let ca = Self::from_parts(key, certificate, intermediates, roots, end);
        try_out(&ca, now).map_err(at("cert-chain.pem"))?;
        Ok(ca)
    }

    /// The roots that go with this CA, and what the lists of `ca-crl.pem` revoke.
    ///
    /// # Errors
    /// When a list cannot be read, or nothing that the CA signs would be trusted with it.
    pub fn roots_with_revoked(&self, ca_crl: &[u8], now: SystemTime) -> Result<TrustBundle, CaFileError> {
        let at = |problem: CaFileProblem| CaFileError {
            file: "ca-crl.pem",
            problem,
        };
        let lists = RevocationList::parse_pem(ca_crl).map_err(|error| at(error.into()))?;
        let bundle = self.roots().clone().with_revoked(lists);
        let trial = trial(self, now).map_err(at)?;
        match bundle.verify_path(&trial, now) {
            Ok(()) => Ok(bundle),
            Err(error) => Err(at(CaFileProblem::RevokesAll(error))),
        }
    }
}

impl SigningCa {
    /// Loads a root that signs by itself, as [`SigningCa::self_signed`] made it, whether or not it has expired: whoever
    /// keeps it replaces it.
    ///
    /// # Errors
    /// When a file cannot be read as what it is, or key and certificate do not belong together.
    pub fn from_root_pem(ca_cert: &[u8], ca_key: &[u8]) -> Result<Self, CaFileError> {
        let at = |file: &'static str| move |problem: CaFileProblem| CaFileError { file, problem };
        let certificate = one_certificate(ca_cert).map_err(at("ca-cert.pem"))?;
        if !certificate.is_ca() {
            return Err(at("ca-cert.pem")(CaFileProblem::NotCa(
                certificate.subject().to_owned(),
            )));
        }
        let key = PrivateKey::from_pem(ca_key).map_err(|error| at("ca-key.pem")(error.into()))?;
        if key.public_key().to_spki() != certificate.spki() {
            return Err(at("ca-key.pem")(CaFileProblem::KeyMismatch));
        }
        Ok(Self::from_root(key, certificate))
    }
}

fn ca_certificate(pem: &[u8], now: SystemTime) -> Result<Certificate, CaFileProblem> {
    let certificate = one_certificate(pem)?;
    check_ca(&certificate, now)?;
    Ok(certificate)
}

fn one_certificate(pem: &[u8]) -> Result<Certificate, CaFileProblem> {
    let mut certificates = Certificate::parse_pem(pem)?;
    match (certificates.pop(), certificates.len()) {
        (Some(certificate), 0) => Ok(certificate),
        (_, others) => Err(CaFileProblem::NotOne(others + 1)),
    }
}

fn check_ca(certificate: &Certificate, now: SystemTime) -> Result<(), CaFileProblem> {
    let subject = || certificate.subject().to_owned();
    if !certificate.is_ca() {
        return Err(CaFileProblem::NotCa(subject()));
    }
    if !certificate.may_sign_certificates() {
        return Err(CaFileProblem::MayNotSign(subject()));
    }
    if !certificate.validity().contains(now) {
        return Err(CaFileProblem::NotValidNow(subject()));
    }
    Ok(())
}

/// Of several roots some may have expired: a bundle outlives its members. One at least must be good.
fn roots(pem: &[u8], now: SystemTime) -> Result<TrustBundle, CaFileProblem> {
    let roots = Certificate::parse_pem(pem)?;
    let mut first_problem = None;
    let mut good = false;
    for root in &roots {
        match check_ca(root, now) {
            Ok(()) => good = true,
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    match first_problem {
        Some(problem) if !good => Err(problem),
        _ => Ok(TrustBundle::new(roots)),
    }
}

/// What to send after a leaf: the signing certificate first, whether or not the file repeats it, and no root.
fn intermediates(
    pem: &[u8],
    certificate: &Certificate,
    roots: &TrustBundle,
    now: SystemTime,
) -> Result<Vec<Certificate>, CaFileProblem> {
    let is_root = |certificate: &Certificate| roots.roots().contains(certificate);
    if is_root(certificate) {
        return Ok(Vec::new());
    }
    let mut chain = vec![certificate.clone()];
    let listed = match Certificate::parse_pem(pem) {
        Ok(listed) => listed,
        Err(CertificateError::Missing) if pem.trim_ascii().is_empty() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for listed in listed {
        if !is_root(&listed) && !chain.contains(&listed) {
            check_ca(&listed, now)?;
            chain.push(listed);
        }
    }
    Ok(chain)
}

/// The soonest end on the way to a root; of several fitting roots the one that lasts longest counts.
fn end_of_path(certificate: &Certificate, intermediates: &[Certificate], roots: &TrustBundle) -> SystemTime {
    let Some(last) = intermediates.last() else {
        return certificate.not_after();
    };
    let intermediates_end = intermediates.iter().map(Certificate::not_after).min();
    let root_end = roots
        .roots()
        .iter()
        .filter(|root| last.is_signed_by(root))
        .map(Certificate::not_after)
        .max();
    [intermediates_end, root_end]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(certificate.not_after())
}

fn try_out(ca: &SigningCa, now: SystemTime) -> Result<(), CaFileProblem> {
    let trial = trial(ca, now)?;
    ca.roots().verify_path(&trial, now).map_err(CaFileProblem::Chain)
}

/// A certificate that is signed only to see whether it can be.
fn trial(ca: &SigningCa, now: SystemTime) -> Result<Chain, CaFileProblem> {
    let key = PrivateKey::generate()?;
    // The trial's names need only be well-formed.
    let host =
        lateen_names::Hostname::new("trial.invalid").map_err(|error| CaFileProblem::Certificate(error.into()))?;
    let validity = Validity::starting(now, std::time::Duration::from_secs(60));
    let leaf = ca
        .issue_serving(key.public_key(), &[host], None, validity, Serial::new([0; 16]))
        .map_err(CaFileProblem::Trial)?;
    Ok(ca.chain_of(leaf))
}
