//! Validated identifiers of the mesh: host names, namespaces, SPIFFE identities, localities.
//!
//! Text from users becomes one of these types once, at the edge, or an [`InvalidName`] that says what is wrong. They are
//! cheap to clone (shared strings), ordered and hashable, so that they serve as keys everywhere.

mod host;
mod locality;
mod object;
mod spiffe;
mod text;

pub use host::Hostname;
pub use locality::Locality;
pub use object::{ObjectKey, ObjectRef};
pub use spiffe::{SpiffeId, TrustDomain};
pub use text::{ClusterId, InvalidName, Name, Namespace, Network, ServiceAccount};

/// The name of the HTTP filter by which Envoy tells `lateen-agent` of a request whose cluster is not there. An agent that sees
/// it in a listener knows that clusters come on demand.
pub const MISSING_CLUSTER_FILTER: &str = "lateen.missing_cluster";
