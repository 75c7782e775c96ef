//! The name table: subscribed to by the agent on Envoy's stream to the control plane, acknowledged by the agent, never
//! shown to Envoy.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lateen_proto::Any;
use lateen_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_proto::istio::networking::nds::v1 as nds;
use prost::Message as _;

use super::wire::Protocol;

pub(crate) use nds::NameTable;

/// The type of name tables.
pub(super) const TYPE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

/// The tables that one stream has sent, by resource name: usually one.
#[derive(Debug, Default)]
pub(super) struct Tables(BTreeMap<String, NameTable>);

impl Tables {
    /// Takes a response. Returns its acknowledgement, and the new table if it could be read.
    ///
    /// # Errors
    /// When the response itself cannot be decoded: there is nothing to acknowledge then.
    pub(super) fn take(
        &mut self,
        protocol: Protocol,
        message: Bytes,
    ) -> Result<(Bytes, Option<Arc<NameTable>>), prost::DecodeError> {
        let (read, mut answer) = match protocol {
            Protocol::Whole => {
                let response = DiscoveryResponse::decode(message)?;
                let answer = DiscoveryRequest {
                    version_info: response.version_info.clone(),
                    response_nonce: response.nonce.clone(),
                    type_url: TYPE.to_owned(),
                    ..Default::default()
                };
                (self.replace(&response.resources), Answer::Whole(answer))
            }
            Protocol::Delta => {
                let response = DeltaDiscoveryResponse::decode(message)?;
                let answer = DeltaDiscoveryRequest {
                    response_nonce: response.nonce.clone(),
                    type_url: TYPE.to_owned(),
                    ..Default::default()
                };
                (self.update(&response), Answer::Delta(answer))
            }
        };
        let table = match read {
            Ok(()) => Some(Arc::new(self.merged())),
            Err(error) => {
                tracing::warn!(%error, "name table rejected, the former goes on");
                answer.reject(&error);
                None
            }
        };
        Ok((answer.encode(), table))
    }

    fn replace(&mut self, resources: &[Any]) -> Result<(), prost::DecodeError> {
        let mut tables = BTreeMap::new();
        for (index, any) in resources.iter().enumerate() {
            tables.insert(index.to_string(), NameTable::decode(any.value.as_slice())?);
        }
        self.0 = tables;
        Ok(())
    }

    fn update(&mut self, response: &DeltaDiscoveryResponse) -> Result<(), prost::DecodeError> {
        let mut changed = Vec::new();
        for resource in &response.resources {
            if let Some(any) = &resource.resource {
                changed.push((resource.name.clone(), NameTable::decode(any.value.as_slice())?));
            }
        }
        self.0.extend(changed);
        for name in &response.removed_resources {
            self.0.remove(name);
        }
        Ok(())
    }

    fn merged(&self) -> NameTable {
        let mut merged = NameTable::default();
        for table in self.0.values() {
            merged.table.extend(table.table.clone());
        }
        merged
    }
}

enum Answer {
    Whole(DiscoveryRequest),
    Delta(DeltaDiscoveryRequest),
}

impl Answer {
    fn reject(&mut self, error: &prost::DecodeError) {
        const INVALID_ARGUMENT: i32 = 3;
        let status = lateen_proto::google::rpc::Status {
            code: INVALID_ARGUMENT,
            message: format!("name table: {error}"),
            ..Default::default()
        };
        match self {
            Self::Whole(request) => {
                request.version_info.clear();
                request.error_detail = Some(status);
            }
            Self::Delta(request) => request.error_detail = Some(status),
        }
    }

    fn encode(&self) -> Bytes {
        Bytes::from(match self {
            Self::Whole(request) => request.encode_to_vec(),
            Self::Delta(request) => request.encode_to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use lateen_proto::envoy::service::discovery::v3::Resource;

    use super::*;

    fn table(host: &str) -> NameTable {
        let info = nds::name_table::NameInfo {
            ips: vec!["10.0.0.1".into()],
            ..Default::default()
        };
        NameTable {
            table: std::iter::once((host.to_owned(), info)).collect(),
        }
    }

    fn delta(resources: Vec<(&str, Vec<u8>)>, removed: &[&str]) -> Bytes {
        let resource = |(name, value): (&str, Vec<u8>)| Resource {
            name: name.to_owned(),
            resource: Some(Any {
                type_url: TYPE.into(),
                value,
            }),
            ..Default::default()
        };
        let response = DeltaDiscoveryResponse {
            resources: resources.into_iter().map(resource).collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            nonce: "7".into(),
            type_url: TYPE.into(),
            ..Default::default()
        };
        response.encode_to_vec().into()
    }

    #[test]
    fn tables_are_merged_and_acknowledged() {
        let mut tables = Tables::default();
        let message = delta(
            vec![
                ("a", table("a.com").encode_to_vec()),
                ("b", table("b.com").encode_to_vec()),
            ],
            &[],
        );
        let (answer, merged) = tables.take(Protocol::Delta, message).unwrap();
        assert_eq!(DeltaDiscoveryRequest::decode(answer).unwrap().response_nonce, "7");
        assert_eq!(merged.unwrap().table.len(), 2);
        let (_, merged) = tables.take(Protocol::Delta, delta(vec![], &["a"])).unwrap();
        assert_eq!(merged.unwrap().table.keys().collect::<Vec<_>>(), ["b.com"]);
    }

    #[test]
    fn a_broken_table_is_rejected_and_the_former_kept() {
        let mut tables = Tables::default();
        tables
            .take(Protocol::Delta, delta(vec![("a", table("a.com").encode_to_vec())], &[]))
            .unwrap();
        let (answer, merged) = tables
            .take(Protocol::Delta, delta(vec![("a", vec![0xff])], &[]))
            .unwrap();
        assert!(merged.is_none());
        assert!(DeltaDiscoveryRequest::decode(answer).unwrap().error_detail.is_some());
        assert_eq!(tables.merged().table.len(), 1);
    }
}
