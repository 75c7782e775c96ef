//! The index: takes events, keeps what matters of objects, publishes snapshots.
//!
//! Owned by one task; nothing in it is shared or locked. Whatever order events come in, what is published depends on the
//! final objects only. What depends on what:
//!
//! - Istio's kinds: an object on itself and the mesh's settings, VirtualServices on their delegates also;
//! - services, endpoints, instances: see `kube::registry`;
//! - Gateway API and Ingress: on one another, namespaces and services;
//! - all of them on the mesh's settings, which come from the ConfigMap `istio`.

mod config;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use lateen_api::mesh::{MeshConfig, MeshNetworks};
use lateen_model::DISCOVERY;
use lateen_model::deployment::Deployments;
use lateen_model::mesh::Mesh;
use lateen_model::secret::{Credential, Sensitive};
use lateen_model::status::Statuses;
use lateen_model::{Diagnostic, Severity, Shared, Snapshot, Table};
use lateen_names::{ClusterId, Name, Namespace, ObjectKey};
use serde_json::Value;

use crate::context::{Context, diagnostic, labels};
use crate::gateway_api::{Parameters, Served};
use crate::keys::{self, KeySource, KeysEvent};
use crate::kube::credential;
use crate::kube::entry::EntryFacts;
use crate::kube::pod::{NodeFacts, PodFacts};
use crate::kube::registry::{Env, NamespaceFacts, Registry};
use crate::kube::service::{ServiceFacts, traffic_distribution};
use crate::kube::slice::SliceFacts;
use crate::kube::workload::WorkloadFacts;
use crate::mesh::{self, Effective, Lowered, Settings};
use crate::object::{Change, Event, Kind, Object, Objects};

use config::{Around, Config};

/// See the module.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    /// The ConfigMap with the mesh's settings, if there is one.
    mesh_map: Option<BTreeMap<String, String>>,
    mesh_changed: bool,
    effective: Effective,
    lowered: Lowered,
    mesh: Shared<Mesh>,
    mesh_diagnostics: Vec<Diagnostic>,

    /// Objects of Istio's kinds, of Gateway API and Ingress.
    objects: Objects,
    registry: Registry,
    registry_diagnostics: BTreeMap<ObjectKey, Vec<Diagnostic>>,
    config: Config,
    credentials: Table<ObjectKey, Credential>,
    /// Keys of token issuers, as far as somebody fetched them.
    keys: keys::Fetched,
    pull_secrets: Table<ObjectKey, Sensitive>,
    /// ConfigMaps that change what is made for Gateways.
    parameters: BTreeMap<ObjectKey, Parameters>,
    served: Vec<Served>,
    statuses: Arc<Statuses>,
    deployments: Arc<Deployments>,
    published: Arc<Snapshot>,
}

impl Index {
    /// An index without objects.
    pub fn new(settings: Settings) -> Self {
        let mut mesh_diagnostics = Vec::new();
        let (effective, lowered) = read_mesh(&settings, None, None, &mut mesh_diagnostics);
        let mesh = Shared::new(lowered.mesh.clone());
        let registry = Registry::new(settings.cluster.clone());
        let published = Arc::new(Snapshot {
            generation: 0,
            mesh: mesh.clone(),
            namespaces: Table::default(),
            services: Table::default(),
            endpoints: Table::default(),
            instances: Table::default(),
            workloads: Table::default(),
            virtual_services: Table::default(),
            destination_rules: Table::default(),
            gateways: Table::default(),
            sidecars: Table::default(),
            peer_authentications: Table::default(),
            request_authentications: Table::default(),
            authorization_policies: Table::default(),
            telemetries: Table::default(),
            envoy_filters: Table::default(),
            extensions: Table::default(),
            credentials: Table::default(),
            pull_secrets: Table::default(),
            network_gateways: Shared::default(),
            diagnostics: mesh_diagnostics.clone().into(),
        });
        Self {
            settings,
            mesh_map: None,
            // The first snapshot has the mesh's networks.
            mesh_changed: true,
            effective,
            lowered,
            mesh,
            mesh_diagnostics,
            objects: Objects::default(),
            registry,
            registry_diagnostics: BTreeMap::new(),
            config: Config::default(),
            credentials: Table::default(),
            keys: keys::Fetched::new(),
            pull_secrets: Table::default(),
            parameters: BTreeMap::new(),
            served: Vec::new(),
            statuses: Arc::default(),
            deployments: Arc::default(),
            published,
        }
    }

    /// Takes events in, in order.
    pub fn apply(&mut self, batch: Vec<Event>) {
        for Event { cluster, change } in batch {
            match change {
                Change::Apply(object) => match object.key() {
                    Ok(key) => self.set(&cluster, object.kind(), key, Some(&object)),
                    // The API server lets no such object in, and file sources report them.
                    Err(error) => tracing::warn!(%error, ?object, "object left out"),
                },
                Change::Delete { kind, key } => self.set(&cluster, kind, key, None),
            }
        }
    }

    /// Takes in what became known of issuers' keys, in order.
    pub fn apply_keys(&mut self, batch: Vec<KeysEvent>) {
        for KeysEvent { source, fetched } in batch {
            if self.keys.get(&source) == fetched.as_ref() {
                continue;
            }
            let naming = self.config.request_authentications.iter();
            let naming = naming.filter(|(_, policy)| {
                policy
                    .rules
                    .iter()
                    .any(|rule| rule.key_source().as_ref() == Some(&source))
            });
            let naming: Vec<ObjectKey> = naming.map(|(key, _)| key.clone()).collect();
            for key in naming {
                self.config.mark(Kind::RequestAuthentication, key, &self.objects);
            }
            match fetched {
                Some(fetched) => self.keys.insert(source, fetched),
                None => self.keys.remove(&source),
            };
        }
    }

    /// Whether an attempt to fetch these keys has been made.
    pub fn knows_keys(&self, source: &KeySource) -> bool {
        self.keys.contains_key(source)
    }

    /// Makes anew what depends on the events since the last time, and returns the world as it is now: the same
    /// snapshot as before when nothing in it differs.
    pub fn publish(&mut self) -> Arc<Snapshot> {
        if std::mem::take(&mut self.mesh_changed) {
            self.refresh_mesh();
        }
        let env = Env {
            mesh: &self.lowered.mesh,
            gateway_services: &self.lowered.gateway_services,
            discovery: &self.lowered.discovery,
        };
        self.registry.refresh(&env, &mut self.registry_diagnostics);
        let namespaces = self.published.namespaces != self.registry.namespaces;
        if namespaces && !env.discovery.is_empty() {
            self.config.mark_everything(&self.objects);
        }
        if namespaces || self.published.services != self.registry.services {
            self.config.mark_gateway_api();
        }
        self.config.refresh(
            &self.objects,
            &Around {
                registry: &self.registry,
                credentials: &self.credentials,
                keys: &self.keys,
                parameters: &self.parameters,
                settings: &self.settings,
            },
            &env,
            Context {
                mesh: &self.lowered.mesh,
            },
        );
        self.refresh_gateway_api();
        self.snapshot()
    }

    /// What is to be told of the objects of the Gateway API.
    pub fn statuses(&self) -> &Arc<Statuses> {
        &self.statuses
    }

    /// The proxies that Gateways ask for.
    pub fn deployments(&self) -> &Arc<Deployments> {
        &self.deployments
    }

    fn refresh_gateway_api(&mut self) {
        let relowered = std::mem::take(&mut self.config.gateway_api_relowered);
        let generated = &self.config.generated;
        if relowered && *self.deployments != generated.deployments {
            self.deployments = Arc::new(generated.deployments.clone());
        }
        // A few lookups: cheaper than to find out whether services or endpoints have changed that count.
        let served = generated.served(&self.registry.services, &self.registry.endpoints);
        if relowered || self.served != served {
            let statuses = generated.statuses_when(&served);
            self.served = served;
            if *self.statuses != statuses {
                self.statuses = Arc::new(statuses);
            }
        }
    }

    /// MeshConfig in force, with defaults.
    pub fn mesh_config(&self) -> &MeshConfig {
        &self.effective.mesh
    }

    /// MeshNetworks in force.
    pub fn mesh_networks(&self) -> &MeshNetworks {
        &self.effective.networks
    }

    /// The objects of Istio's kinds, of Gateway API and Ingress that it holds.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        let mut diagnostics: Vec<Diagnostic> = self.mesh_diagnostics.clone();
        diagnostics.extend(self.registry_diagnostics.values().flatten().cloned());
        diagnostics.extend(self.config.diagnostics().cloned());
        diagnostics.sort();
        diagnostics.dedup();
        let (registry, config) = (&self.registry, &self.config);
        let old = &*self.published;
        let same = old.mesh == self.mesh
            && old.namespaces == registry.namespaces
            && old.services == registry.services
            && old.endpoints == registry.endpoints
            && old.instances == registry.instances
            && old.workloads == registry.workloads
            && old.credentials == self.credentials
            && old.pull_secrets == self.pull_secrets
            && old.network_gateways == registry.network_gateways
            && config.equals(old)
            && *old.diagnostics == *diagnostics;
        if same && old.generation > 0 {
            return Arc::clone(&self.published);
        }
        let snapshot = Snapshot {
            generation: old.generation + 1,
            mesh: self.mesh.clone(),
            namespaces: registry.namespaces.clone(),
            services: registry.services.clone(),
            endpoints: registry.endpoints.clone(),
            instances: registry.instances.clone(),
            workloads: registry.workloads.clone(),
            virtual_services: config.virtual_services.clone(),
            destination_rules: config.destination_rules.clone(),
            gateways: config.gateways.clone(),
            sidecars: config.sidecars.clone(),
            peer_authentications: config.peer_authentications.clone(),
            request_authentications: config.request_authentications.clone(),
            authorization_policies: config.authorization_policies.clone(),
            telemetries: config.telemetries.clone(),
            envoy_filters: config.envoy_filters.clone(),
            extensions: config.extensions.clone(),
            credentials: self.credentials.clone(),
            pull_secrets: self.pull_secrets.clone(),
            network_gateways: registry.network_gateways.clone(),
            diagnostics: diagnostics.into(),
        };
        self.published = Arc::new(snapshot);
        Arc::clone(&self.published)
    }

    fn refresh_mesh(&mut self) {
        let mut diagnostics = Vec::new();
        let before = Some(&self.effective);
        let (effective, lowered) = read_mesh(&self.settings, self.mesh_map.as_ref(), before, &mut diagnostics);
        (self.effective, self.mesh_diagnostics) = (effective, diagnostics);
        let first = self.published.generation == 0;
        if !first && lowered == self.lowered {
            return;
        }
        self.mesh = Shared::new(lowered.mesh.clone());
        self.lowered = lowered;
        self.registry.mark_everything();
        self.config.mark_everything(&self.objects);
    }

    fn set(&mut self, cluster: &ClusterId, kind: Kind, key: ObjectKey, object: Option<&Arc<Object>>) {
        let local = *cluster == self.settings.cluster;
        match (kind, object.map(|object| &**object)) {
            (Kind::Namespace, object) => {
                let Ok(name) = Namespace::new(key.name.as_str()) else {
                    return;
                };
                self.registry
                    .set_namespace(cluster, &name, object.map(|object| namespace_facts(&name, object)));
            }
            (Kind::Node, Some(Object::Node(node))) => {
                self.registry.set_node(cluster, &key.name, Some(NodeFacts::new(node)));
            }
            (Kind::Node, _) => self.registry.set_node(cluster, &key.name, None),
            (Kind::Service, Some(Object::Service(service))) => {
                self.registry
                    .set_service(cluster, &key, ServiceFacts::new(service, &key));
            }
            (Kind::Service, _) => self.registry.set_service(cluster, &key, None),
            (Kind::EndpointSlice, Some(Object::EndpointSlice(slice))) => {
                self.registry.set_slice(cluster, &key, SliceFacts::new(slice, &key));
            }
            (Kind::EndpointSlice, _) => self.registry.set_slice(cluster, &key, None),
            (Kind::Pod, Some(Object::Pod(pod))) => self.registry.set_pod(cluster, &key, PodFacts::new(pod, &key)),
            (Kind::Pod, _) => self.registry.set_pod(cluster, &key, None),
            // Everything else counts in the local cluster only: who can write into another cluster decides nothing here.
            _ if !local => {}
            (Kind::Secret, object) => {
                let (credential, pull) = match object {
                    Some(Object::Secret(secret)) => {
                        (credential::of_secret(secret, &key), credential::for_registry(secret))
                    }
                    _ => (None, None),
                };
                match pull {
                    Some(pull) => self.pull_secrets.set(key.clone(), Shared::new(pull)),
                    None => self.pull_secrets.remove(&key),
                };
                self.set_credential(key, credential);
            }
            (Kind::ConfigMap, object) => {
                let map = match object {
                    Some(Object::ConfigMap(map)) => Some(map),
                    _ => None,
                };
                self.set_config_map(key, map);
            }
            (Kind::ServiceAccount, _) => {}
            (Kind::ServiceEntry, Some(Object::ServiceEntry(entry))) => {
                self.registry.set_entry(&key, EntryFacts::new(entry, &key));
                self.set_object(kind, key, object);
            }
            (Kind::ServiceEntry, _) => {
                self.registry.set_entry(&key, None);
                self.set_object(kind, key, None);
            }
            (Kind::WorkloadEntry, Some(Object::WorkloadEntry(entry))) => {
                self.registry.set_workload_entry(&key, WorkloadFacts::new(entry, &key));
                self.set_object(kind, key, object);
            }
            (Kind::WorkloadEntry, _) => {
                self.registry.set_workload_entry(&key, None);
                self.set_object(kind, key, None);
            }
            _ => self.set_object(kind, key, object),
        }
    }

    fn set_object(&mut self, kind: Kind, key: ObjectKey, object: Option<&Arc<Object>>) {
        let old = match object {
            Some(object) => self.objects.insert(key.clone(), Arc::clone(object)),
            None => self.objects.remove(kind, &key),
        };
        if old.as_ref() != object {
            self.config.mark(kind, key, &self.objects);
        }
    }

    fn set_credential(&mut self, key: ObjectKey, credential: Option<Credential>) {
        let changed = match credential {
            Some(credential) => self.credentials.set(key, Shared::new(credential)),
            None => self.credentials.remove(&key),
        };
        if changed {
            // Listeners without their certificate are closed.
            self.config.mark_gateway_api();
        }
    }

    fn set_config_map(&mut self, key: ObjectKey, map: Option<&ConfigMap>) {
        if key == self.settings.origin().key {
            let data = map.map(|map| map.data.clone().unwrap_or_default());
            if self.mesh_map != data {
                self.mesh_map = data;
                self.mesh_changed = true;
            }
            return;
        }
        let parameters = map.and_then(Parameters::new);
        if self.parameters.get(&key) != parameters.as_ref() {
            match parameters {
                Some(parameters) => self.parameters.insert(key.clone(), parameters),
                None => self.parameters.remove(&key),
            };
            self.config.mark_gateway_api();
        }
        let Ok(name) = Name::new(&format!("configmap:{}", key.name)) else {
            return;
        };
        let credential = map.and_then(|map| credential::of_config_map(map, &key));
        self.set_credential(
            ObjectKey {
                namespace: key.namespace,
                name,
            },
            credential,
        );
    }
}

fn namespace_facts(name: &Namespace, object: &Object) -> NamespaceFacts {
    let meta = object.metadata();
    let mut labels = labels(meta.labels.as_ref());
    // The API server sets it; files may lack it.
    labels.insert("kubernetes.io/metadata.name".into(), name.as_str().into());
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
    // Either may say it; the label counts before the annotation.
    if let Some(discovery) = annotation(DISCOVERY) {
        labels
            .entry(DISCOVERY.into())
            .or_insert_with(|| discovery.as_str().into());
    }
    let distribution = annotation("networking.istio.io/traffic-distribution");
    NamespaceFacts {
        labels,
        traffic_distribution: traffic_distribution(None, distribution.map(String::as_str)),
    }
}

/// The settings from their sources: given ones first, then the ConfigMap's.
fn read_mesh(
    settings: &Settings,
    map: Option<&BTreeMap<String, String>>,
    before: Option<&Effective>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Effective, Lowered) {
    let origin = settings.origin();
    let mut broken = [false, false];
    let mut read = |index: usize, given: &Option<Value>, field: &str| -> Value {
        if let Some(given) = given {
            return given.clone();
        }
        let Some(text) = map.and_then(|map| map.get(field)) else {
            return Value::Null;
        };
        crate::yaml::parse(text).unwrap_or_else(|error| {
            broken[index] = true;
            let message = format!("{error}; the settings before stay in force");
            diagnostics.push(diagnostic(
                &origin,
                &format!("data.{field}"),
                Severity::Error,
                "LTN0101",
                &message,
            ));
            Value::Null
        })
    };
    let (mesh, networks) = (
        read(0, &settings.mesh, "mesh"),
        read(1, &settings.networks, "meshNetworks"),
    );
    let chart = settings.mesh.is_some() || map.is_none_or(|map| !map.contains_key("mesh"));
    let mut effective = mesh::effective(&mesh, &networks, chart, before, &origin, diagnostics);
    if let Some(before) = before {
        if broken[0] {
            effective.mesh = before.mesh.clone();
        }
        if broken[1] {
            effective.networks = before.networks.clone();
        }
    }
    let lowered = mesh::lower(&effective, settings, &origin, diagnostics);
    (effective, lowered)
}
