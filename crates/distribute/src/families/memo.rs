//! Built resources by the hash of their input: each is built once for as long as somebody holds it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use lateen_compile::{Built, Family, Input};
use lateen_model::Diagnostic;
use lateen_names::ObjectRef;
use lateen_xds::Resource;

/// What building an input told, beside the resource.
pub(super) struct Made {
    /// The type of the resource.
    url: &'static str,
    /// The resource's name; `None` where nothing came of the input.
    pub(super) name: Option<Arc<str>>,
    pub(super) diagnostics: Vec<Diagnostic>,
    origins: Arc<[ObjectRef]>,
}

struct Entry {
    made: Arc<Made>,
    resource: Weak<Resource>,
    /// Of several resources of a name, the last one built is the one in force.
    serial: u64,
}

impl Entry {
    fn is_in_use(&self) -> bool {
        match self.made.name {
            Some(_) => self.resource.strong_count() > 0,
            None => Arc::strong_count(&self.made) > 1,
        }
    }
}

/// See the module. Inputs are told apart by 128-bit hashes of their content.
#[derive(Default)]
pub(super) struct Memo {
    entries: HashMap<u128, Entry>,
    serial: u64,
    /// How many entries were in use when those that were not were last forgotten.
    swept: usize,
}

/// Entries beyond twice those in use that are kept before somebody looks for unused ones.
const SLACK: usize = 1024;

impl Memo {
    /// The resource of an input, and what building it told.
    pub(super) fn build(&mut self, hash: u128, input: &Input) -> (Arc<Made>, Option<Arc<Resource>>) {
        if let Some(entry) = self.entries.get(&hash) {
            let resource = entry.resource.upgrade();
            if resource.is_some() || entry.made.name.is_none() {
                return (Arc::clone(&entry.made), resource);
            }
        }
        let Built {
            resource,
            diagnostics,
            origins,
        } = input.build();
        let resource = resource.map(|resource| {
            Arc::new(Resource {
                name: resource.name,
                hash: resource.hash,
                body: resource.bytes,
            })
        });
        let made = Arc::new(Made {
            url: type_url(input),
            name: resource.as_ref().map(|resource| Arc::clone(&resource.name)),
            diagnostics,
            origins,
        });
        self.serial += 1;
        let entry = Entry {
            made: Arc::clone(&made),
            resource: resource.as_ref().map(Arc::downgrade).unwrap_or_default(),
            serial: self.serial,
        };
        self.entries.insert(hash, entry);
        (made, resource)
    }

    /// Forgets what nobody holds any more, when that may be much.
    pub(super) fn sweep(&mut self) {
        if self.entries.len() > 2 * self.swept + SLACK {
            self.entries.retain(|_, entry| entry.is_in_use());
            self.swept = self.entries.len();
        }
    }

    /// How many resources are known: those in use, and some that will be forgotten.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Which objects made the resource of a name; empty if there is no such resource.
    pub(super) fn origins(&self, url: &str, name: &str) -> Arc<[ObjectRef]> {
        let named = |entry: &&Entry| entry.made.url == url && entry.made.name.as_deref() == Some(name);
        let found = self.entries.values().filter(named).filter(|entry| entry.is_in_use());
        found
            .max_by_key(|entry| entry.serial)
            .map_or_else(|| [].into(), |entry| Arc::clone(&entry.made.origins))
    }
}

fn type_url(input: &Input) -> &'static str {
    match input {
        Input::Patched(patched) => type_url(patched.inner()),
        Input::Added(added) => added.type_url(),
        Input::Cluster(_) => Family::OutboundClusters.type_url(),
        Input::Extension(_) => Family::Extensions.type_url(),
        Input::Endpoints(_) => Family::Endpoints.type_url(),
        Input::Listener(_) => Family::OutboundListeners.type_url(),
        Input::Routes(_) => Family::Routes.type_url(),
        Input::VirtualHost(_) => Family::VirtualHosts.type_url(),
        Input::NameTable(_) => Family::NameTable.type_url(),
        Input::Secret(_) => Family::Secrets.type_url(),
    }
}
