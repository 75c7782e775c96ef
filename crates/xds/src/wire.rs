//! gRPC messages on the wire: requests decoded within a limit, responses written around shared bodies.

mod encoded;
mod read;
mod write;

pub(crate) use encoded::Encoded;
pub(crate) use read::Requests;
pub(crate) use write::Writer;
