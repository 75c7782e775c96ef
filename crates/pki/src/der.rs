//! The few pieces of DER that no library at hand writes: other private key formats wrapped as PKCS #8, and the exact
//! issuer name in a certificate.

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use x509_parser::asn1_rs::{Any, FromDer, Sequence};
use yasna::models::ObjectIdentifier;
use zeroize::Zeroizing;

use crate::key::PrivateKey;

const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10_045, 2, 1];
const P256: &[u64] = &[1, 2, 840, 10_045, 3, 1, 7];
const P384: &[u64] = &[1, 3, 132, 0, 34];

/// PKCS #1 (RFC 8017, A.1.2) as PKCS #8 (RFC 5208).
pub(crate) fn pkcs8_of_rsa(key: &[u8]) -> Zeroizing<Vec<u8>> {
    pkcs8(key, RSA_ENCRYPTION, None)
}

/// SEC 1 (RFC 5915) as PKCS #8. The curve is told by the length of the private number: only P-256 and P-384 are taken.
pub(crate) fn pkcs8_of_ec(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let (_, sequence) = Sequence::from_der(key).map_err(|_| "the EC PRIVATE KEY block does not parse")?;
    let (rest, _version) = Any::from_der(&sequence.content).map_err(|_| "the EC PRIVATE KEY block has no version")?;
    let (_, number) = Any::from_der(rest).map_err(|_| "the EC PRIVATE KEY block has no key")?;
    let curve = match number.data.len() {
        32 => P256,
        48 => P384,
        _ => return Err("the elliptic curve is neither P-256 nor P-384"),
    };
    Ok(pkcs8(key, EC_PUBLIC_KEY, Some(curve)))
}

fn pkcs8(key: &[u8], algorithm: &[u64], curve: Option<&[u64]>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(algorithm));
                match curve {
                    Some(curve) => writer.next().write_oid(&ObjectIdentifier::from_slice(curve)),
                    None => writer.next().write_null(),
                }
            });
            writer.next().write_bytes(key);
        });
    }))
}

/// Stands in for the CA's key while rcgen lays out a certificate; [`sign_with_issuer`] signs what comes of it.
pub(crate) struct Unsigned<'a>(pub(crate) &'a PrivateKey);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.pair().der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(self.0.pair())
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

/// Puts `issuer` (a DER Name) in the place of the certificate's issuer and signs it.
///
/// rcgen keeps a name as a map of attributes, which loses repeated ones (`DC=corp, DC=example`) and several in one set.
/// Verifiers chain certificates by the very bytes of the name (RFC 5280, §7.1), so these are taken from the CA's own
/// certificate.
pub(crate) fn sign_with_issuer(unsigned: &[u8], issuer: &[u8], key: &PrivateKey) -> Result<Vec<u8>, rcgen::Error> {
    let certificate = elements(unsigned)?;
    let [tbs, algorithm, _] = certificate[..] else {
        return Err(rcgen::Error::CouldNotParseCertificate);
    };
    // version, serialNumber, signature, issuer, validity, subject, …
    let mut fields = elements(tbs)?;
    *fields.get_mut(3).ok_or(rcgen::Error::CouldNotParseCertificate)? = issuer;
    let tbs = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| fields.iter().for_each(|field| writer.next().write_der(field)));
    });
    let signature = key.sign(&tbs)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&tbs);
            writer.next().write_der(algorithm);
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// The encoded elements of an encoded sequence.
fn elements(der: &[u8]) -> Result<Vec<&[u8]>, rcgen::Error> {
    let malformed = |_| rcgen::Error::CouldNotParseCertificate;
    let (_, sequence) = Any::from_der(der).map_err(malformed)?;
    let mut rest = sequence.data;
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (after, _) = Any::from_der(rest).map_err(malformed)?;
        elements.push(&rest[..rest.len() - after.len()]);
        rest = after;
    }
    Ok(elements)
}
