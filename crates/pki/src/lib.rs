//! Keys, certificate requests, certificates, SPIFFE SANs, trust bundles and the arithmetic of rotation.
//!
//! Pure: time comes in as an argument, serial numbers too; only keys are random, made by the cryptographic library.
//! Nothing here reads files or knows of a server. What is malformed becomes a typed error that says what is wrong and
//! never a panic: requests and certificates come from the network.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use lateen_pki::{Csr, PrivateKey, Serial, SigningCa, Validity};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
//! let day = Duration::from_secs(24 * 3600);
//! let ca = SigningCa::self_signed(
//!     &"cluster.local".parse()?, PrivateKey::generate()?, Validity::starting(now, 3650 * day), Serial::new([7; 16]))?;
//!
//! let key = PrivateKey::generate()?;
//! let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse()?;
//! let request = Csr::create(&key, &identity)?;
//!
//! let request = Csr::parse_pem(request.pem().as_bytes())?;
//! let leaf = ca.issue(request.public_key(), &identity, Validity::starting(now, day), Serial::new([8; 16]))?;
//! assert_eq!(ca.roots().verify(&ca.chain_of(leaf), now)?, identity);
//! # Ok(())
//! # }
//! ```

mod bundle;
mod certificate;
mod crl;
mod csr;
mod der;
mod key;
mod plugged;
mod rotation;
mod signing;

pub use bundle::{TrustBundle, VerifyError};
pub use certificate::{Certificate, CertificateError, Chain, Serial};
pub use crl::{RevocationError, RevocationList};
pub use csr::{Csr, CsrError};
pub use key::{KeyAlgorithm, KeyError, PrivateKey, PublicKey};
pub use plugged::{CaFileError, CaFileProblem, CaFiles};
pub use rotation::{CLOCK_SKEW_GRACE, RenewalPolicy, Validity};
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer};
pub use signing::{IssueError, SigningCa};
