//! DNS for the application: names of the mesh are answered from the control plane's name table, all others by the
//! machine's resolvers.

mod resolv;
mod server;
mod table;
mod upstream;

pub(crate) use resolv::ResolvConf;
pub(crate) use server::serve;
