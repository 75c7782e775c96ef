//! A fake proxy that follows the protocol as Envoy does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use lateen_proto::google::rpc::Status;
use prost::Message as _;

use crate::session::Kept;
use crate::types::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, kind_of};
use crate::{Dialect, Event, Push, Resource, Session, Wanted};

/// One type in the proxy.
#[derive(Debug, Default, Clone)]
pub(super) struct Type {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<String>,
    pub(super) has: BTreeMap<String, u64>,
    nonce: String,
    /// Of the last response that it took, on whatever stream.
    version: String,
    requested: bool,
}

enum Request {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

/// A session and the proxy at its other end, with messages on their way in both directions.
pub(super) struct Pair {
    pub(super) dialect: Dialect,
    pub(super) session: Session,
    pub(super) now: Instant,
    pub(super) types: BTreeMap<String, Type>,
    pub(super) events: Vec<Event>,
    /// What was sent, in words: the type's short name, then names, those removed with a minus.
    pub(super) log: Vec<String>,
    /// Clusters that wait for their endpoints.
    pub(super) warming: BTreeSet<String>,
    /// What was found to be to blame on this stream.
    pub(super) blamed: BTreeSet<(String, String, u64)>,
    to_proxy: VecDeque<Push>,
    to_server: VecDeque<Request>,
}

/// A resource that proxies reject, and name.
fn is_bad(resource: &Resource) -> bool {
    resource.body.starts_with(b"bad")
}

/// A resource that they cannot even decode.
fn is_garbled(resource: &Resource) -> bool {
    resource.body.starts_with(b"garbled")
}

impl Type {
    /// The names in a request for all that it wants. Of types that are subscribed whole, no name means everything.
    fn asks(&self, url: &str) -> Vec<String> {
        let mut names: Vec<String> = self.names.iter().cloned().collect();
        if self.wildcard && !(names.is_empty() && kind_of(url).1.wildcard) {
            names.push("*".to_owned());
        }
        names
    }
}

impl Pair {
    pub(super) fn new(dialect: Dialect, wanted: Arc<Wanted>) -> Self {
        Self {
            dialect,
            session: Session::new(dialect, wanted),
            now: Instant::now(),
            types: BTreeMap::new(),
            events: Vec::new(),
            log: Vec::new(),
            warming: BTreeSet::new(),
            blamed: BTreeSet::new(),
            to_proxy: VecDeque::new(),
            to_server: VecDeque::new(),
        }
    }

    fn is_full(&self, url: &str) -> bool {
        self.dialect == Dialect::StateOfTheWorld && kind_of(url).1.full
    }

    // === the proxy's wishes ===

    /// The first request for a type, by wildcard when there are no names.
    pub(super) fn start(&mut self, url: &str, names: &[&str]) {
        let state = self.types.entry(url.to_owned()).or_default();
        state.wildcard = names.is_empty() && kind_of(url).1.wildcard;
        state.names = names.iter().map(ToString::to_string).collect();
        self.first_request(url);
    }

    fn first_request(&mut self, url: &str) {
        let dialect = self.dialect;
        let state = self.types.get_mut(url).unwrap();
        state.requested = true;
        state.nonce.clear();
        let names = state.asks(url);
        let request = match dialect {
            Dialect::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url: url.to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: state
                    .has
                    .iter()
                    .map(|(n, hash)| (n.clone(), format!("{hash:016x}")))
                    .collect(),
                ..Default::default()
            }),
            Dialect::StateOfTheWorld => Request::Sotw(DiscoveryRequest {
                type_url: url.to_owned(),
                resource_names: names,
                version_info: state.version.clone(),
                ..Default::default()
            }),
        };
        self.to_server.push_back(request);
    }

    /// Asks for more or less; `*` is everything.
    pub(super) fn subscribe(&mut self, url: &str, add: &[&str], drop: &[&str]) {
        let state = self.types.entry(url.to_owned()).or_default();
        for name in add {
            if *name == "*" {
                state.wildcard = true
            } else {
                drop_or_add(&mut state.names, name, true)
            }
        }
        for name in drop {
            if *name == "*" {
                state.wildcard = false
            } else {
                drop_or_add(&mut state.names, name, false)
            }
        }
        if !state.wildcard {
            let names = state.names.clone();
            state.has.retain(|name, _| names.contains(name));
        }
        if !state.requested {
            return self.first_request(url);
        }
        match self.dialect {
            Dialect::Delta => self.to_server.push_back(Request::Delta(DeltaDiscoveryRequest {
                type_url: url.to_owned(),
                resource_names_subscribe: add.iter().map(ToString::to_string).collect(),
                resource_names_unsubscribe: drop.iter().map(ToString::to_string).collect(),
                ..Default::default()
            })),
            Dialect::StateOfTheWorld => self.answer_sotw(url, None),
        }
    }

    /// The connection breaks, what is on its way is lost, and the proxy connects anew.
    pub(super) fn reconnect(&mut self) {
        let wanted = Arc::clone(self.session.wanted());
        self.session = Session::new(self.dialect, wanted);
        self.to_proxy.clear();
        self.to_server.clear();
        self.warming.clear();
        self.blamed.clear();
        let urls: Vec<String> = self.types.keys().cloned().collect();
        for url in urls {
            self.first_request(&url);
        }
    }

    // === steps ===

    /// The server sends one response, if it has one.
    pub(super) fn poll(&mut self) -> bool {
        let push = self.session.poll(self.now);
        for event in self.session.events() {
            if let Event::Rejected {
                type_url, name, hash, ..
            } = &event
            {
                self.blamed.insert((type_url.to_string(), name.to_string(), *hash));
            }
            self.events.push(event);
        }
        let Some(push) = push else { return false };
        let short = crate::types::short_name(&push.type_url);
        let names: Vec<String> = push
            .resources
            .iter()
            .map(|resource| format!(" {}", resource.name))
            .collect();
        let removed: Vec<String> = push.removed.iter().map(|name| format!(" -{name}")).collect();
        self.log.push(format!("{short}{}{}", names.concat(), removed.concat()));
        assert_written_as_said(&push);
        if !self.is_full(&push.type_url) {
            for resource in &push.resources {
                let sent = (push.type_url.to_string(), resource.name.to_string(), resource.hash);
                assert!(!self.blamed.contains(&sent), "{sent:?} was rejected and is sent again");
            }
        }
        self.to_proxy.push_back(push);
        true
    }

    /// The proxy takes one response and answers it.
    pub(super) fn take(&mut self) -> bool {
        let Some(push) = self.to_proxy.pop_front() else {
            return false;
        };
        let url = push.type_url.to_string();
        let verdict = self.apply(&url, &push);
        let state = self.types.get_mut(&url).unwrap();
        state.nonce = push.nonce.to_string();
        if verdict.is_ok() {
            state.version = push.version.to_string();
        }
        let error = verdict.err().map(|message| Status {
            code: 13,
            message,
            ..Default::default()
        });
        match self.dialect {
            Dialect::Delta => self.to_server.push_back(Request::Delta(DeltaDiscoveryRequest {
                type_url: url,
                response_nonce: push.nonce.to_string(),
                error_detail: error,
                ..Default::default()
            })),
            Dialect::StateOfTheWorld => self.answer_sotw(&url, error),
        }
        true
    }

    /// The server takes one request.
    pub(super) fn serve(&mut self) -> bool {
        match self.to_server.pop_front() {
            Some(Request::Delta(request)) => self.session.on_delta_request(&request).unwrap(),
            Some(Request::Sotw(request)) => self.session.on_sotw_request(&request).unwrap(),
            None => return false,
        }
        true
    }

    /// Everything that is on its way arrives; time stands still.
    pub(super) fn deliver(&mut self) {
        for _ in 0..10_000 {
            let moved = [self.serve(), self.poll(), self.take()];
            if moved == [false; 3] {
                return;
            }
        }
        panic!("messages without end: {:?}", &self.log[self.log.len() - 20..]);
    }

    /// Everything arrives, and everything that waits for the time gets it.
    pub(super) fn finish(&mut self) {
        for _ in 0..100 {
            self.deliver();
            match self.session.deadline() {
                Some(deadline) => self.now = deadline.max(self.now + Duration::from_millis(1)),
                None => return,
            }
        }
        panic!("waits without end");
    }

    /// What was sent since the last call.
    pub(super) fn sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    // === the proxy's doings ===

    fn answer_sotw(&mut self, url: &str, error_detail: Option<Status>) {
        let state = &self.types[url];
        self.to_server.push_back(Request::Sotw(DiscoveryRequest {
            type_url: url.to_owned(),
            resource_names: state.asks(url),
            version_info: state.version.clone(),
            response_nonce: state.nonce.clone(),
            error_detail,
            ..Default::default()
        }));
    }

    fn apply(&mut self, url: &str, push: &Push) -> Result<(), String> {
        let full = self.is_full(url);
        let state = self.types.get_mut(url).unwrap();
        if push.resources.iter().any(|resource| is_garbled(resource)) {
            return Err("does not decode".to_owned());
        }
        let bad: Vec<&Arc<Resource>> = push.resources.iter().filter(|resource| is_bad(resource)).collect();
        // Clusters and listeners are taken one by one, everything else all or nothing.
        let in_part = url == CLUSTER || url == LISTENER || full;
        if !bad.is_empty() && !in_part {
            return Err("all of it".to_owned());
        }
        let wants = |state: &Type, name: &str| state.wildcard || state.names.contains(name);
        if full {
            let kept: BTreeSet<&str> = push.resources.iter().map(|resource| &*resource.name).collect();
            state.has.retain(|name, _| kept.contains(&**name));
        }
        let good: Vec<&Arc<Resource>> = push
            .resources
            .iter()
            .filter(|resource| !is_bad(resource) && wants(state, &resource.name))
            .collect();
        for resource in good {
            let before = state.has.insert(resource.name.to_string(), resource.hash);
            if url == CLUSTER && before != Some(resource.hash) {
                self.warming.insert(resource.name.to_string());
            }
            if url == ENDPOINTS {
                self.warming.remove(&*resource.name);
            }
        }
        for name in &push.removed {
            state.has.remove(&**name);
        }
        if bad.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = bad
            .iter()
            .map(|resource| format!("{}: not good", resource.name))
            .collect();
        Err(format!(
            "Error adding/updating {}(s) {}",
            crate::types::short_name(url),
            named.join(", ")
        ))
    }

    /// What the proxy does not have as it should, other than what it rejected.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let wanted = self.session.wanted();
        let none = crate::ResourceSet::new();
        for (url, state) in &self.types {
            let set = wanted.all(url).unwrap_or(&none);
            let unasked = wanted.set(url).unwrap_or(&none);
            let short = crate::types::short_name(url);
            // What comes by name only, and the proxy has without having named it, it keeps, up to date.
            let comes = |name: &str| state.wildcard && (unasked.get(name).is_some() || state.has.contains_key(name));
            for resource in set
                .iter()
                .filter(|resource| comes(&resource.name) || state.names.contains(&*resource.name))
            {
                let has = state.has.get(&*resource.name);
                if has != Some(&resource.hash) && !is_bad(resource) && !is_garbled(resource) {
                    faults.push(format!(
                        "{short} {} is {has:?} instead of {}",
                        resource.name, resource.hash
                    ));
                }
            }
            // The state of the world cannot say that something is gone of these types.
            let silent = self.dialect == Dialect::StateOfTheWorld && !self.is_full(url);
            for name in state.has.keys().filter(|name| !silent && set.get(name).is_none()) {
                faults.push(format!("{short} {name} is left over"));
            }
        }
        if let (Some(endpoints), Some(set)) = (self.types.get(ENDPOINTS), wanted.set(ENDPOINTS)) {
            let good = |name: &str| {
                set.get(name)
                    .is_some_and(|resource| !is_bad(resource) && !is_garbled(resource))
            };
            let has = |name: &str| self.types[CLUSTER].has.contains_key(name);
            for name in self
                .warming
                .iter()
                .filter(|name| endpoints.names.contains(*name) && good(name) && has(name))
            {
                faults.push(format!("cluster {name} waits for endpoints"));
            }
        }
        faults
    }
}

/// What was written for several proxies is what this one is to be sent.
fn assert_written_as_said(push: &Push) {
    let Kept::Shared { encoded, .. } = &push.resources.0 else {
        return;
    };
    assert_eq!(push.resources.len(), push.resources.iter().count());
    let written = DeltaDiscoveryResponse::decode(encoded.bytes.clone()).unwrap();
    // Whatever the order.
    let written = written.resources.iter().map(|written| {
        let body = &written.resource.as_ref().unwrap().value;
        (&*written.name, (written.version.clone(), &body[..]))
    });
    let said = push
        .resources
        .iter()
        .map(|said| (&*said.name, (said.version(), &said.body[..])));
    assert_eq!(written.collect::<BTreeMap<_, _>>(), said.collect());
}

fn drop_or_add(names: &mut BTreeSet<String>, name: &str, add: bool) {
    if add {
        names.insert(name.to_owned());
    } else {
        names.remove(name);
    }
}

/// A proxy as Envoy is: all clusters and listeners, endpoints and routes by name.
pub(super) fn envoy(dialect: Dialect, wanted: Arc<Wanted>, names: &[&str]) -> Pair {
    let mut pair = Pair::new(dialect, wanted);
    pair.start(CLUSTER, &[]);
    pair.deliver();
    pair.start(ENDPOINTS, names);
    pair.deliver();
    pair.start(LISTENER, &[]);
    pair.deliver();
    pair.start(ROUTE, names);
    pair.finish();
    pair
}
