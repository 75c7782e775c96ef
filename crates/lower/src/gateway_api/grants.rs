//! References: to what kind, and whether it may be made across namespaces.

use std::collections::BTreeMap;

use lateen_api::gateway_api::GROUP;

use crate::Object;
use crate::object::{Kind, Objects};

/// Who may refer to what: from (kind, namespace), to (group, kind, namespace), and the names; `None` for any.
#[derive(Debug, Default)]
pub(super) struct Grants<'a>(BTreeMap<(Pair<'a>, Target<'a>), Vec<Option<&'a str>>>);

/// Kind and namespace of who refers.
type Pair<'a> = (&'a str, &'a str);
/// Group, kind and namespace of what is referred to.
type Target<'a> = (&'a str, &'a str, &'a str);

impl<'a> Grants<'a> {
    /// Reads the ReferenceGrants.
    pub(super) fn new(objects: &'a Objects) -> Self {
        let mut grants = BTreeMap::<_, Vec<_>>::new();
        for (key, object) in objects.of(Kind::ReferenceGrant) {
            let Object::ReferenceGrant(grant) = object else {
                continue;
            };
            let Some(namespace) = key.namespace.as_ref() else {
                continue;
            };
            for from in grant.spec.from.iter().filter(|from| from.group == GROUP) {
                for to in &grant.spec.to {
                    let target = (core(&to.group), to.kind.as_str(), namespace.as_str());
                    let pair = (from.kind.as_str(), from.namespace.as_str());
                    grants.entry((pair, target)).or_default().push(to.name.as_deref());
                }
            }
        }
        Self(grants)
    }

    /// Whether an object of kind `from.0` in namespace `from.1` may refer to `name`.
    pub(super) fn allow(&self, from: (&str, &str), to: (&str, &str, &str), name: &str) -> bool {
        let names = self.0.get(&(from, (core(to.0), to.1, to.2)));
        names.is_some_and(|names| {
            names
                .iter()
                .any(|allowed| allowed.is_none_or(|allowed| allowed == name))
        })
    }
}

/// `core` is another way to write the group without name.
pub(super) fn core(group: &str) -> &str {
    if group == "core" { "" } else { group }
}
