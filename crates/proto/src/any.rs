//! Packing messages into `google.protobuf.Any`.

use prost::{Message, Name};
use prost_types::Any;

/// Packs a message under its own type URL.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// The type URL of a message, as xDS names its resource types.
pub fn type_url<M: Name>() -> String {
    M::type_url()
}
