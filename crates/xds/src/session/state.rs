//! One type of resources on one stream: subscriptions, what is held, what is under way.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::batch::{Batch, Changes};
use super::blame::{Blame, mentions};
use super::demand::Demand;
use super::held::{Change, Entry, Has, Held};
use super::outstanding::{Brings, Outstanding};
use crate::ResponseId;
use crate::resource::{Resource, ResourceSet, Step, Wanted};
use crate::types::{Kind, kind_of};

/// What is known of one type.
#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) url: Arc<str>,
    pub(super) rank: usize,
    pub(super) kind: Kind,
    /// All there is, besides what is named.
    wildcard: bool,
    /// What is named besides the wildcard.
    named: BTreeSet<Arc<str>>,
    demand: Demand,
    /// In the state of the world, a hash of the names in the last request, and whether there ever were any.
    pub(super) names_hash: u64,
    pub(super) named_before: bool,
    /// Of the last response; 0 before the first.
    last_nonce: u64,
    held: Held,
    blame: Blame,
    pub(super) outstanding: Option<Outstanding>,
    /// The proxy awaits a response even if there is nothing to say.
    owes_answer: bool,
    /// The proxy took a response on this stream: it has nothing left of an earlier one.
    known: bool,
    /// The proxy may have resources of an earlier stream, and did not say which.
    experienced: bool,
    /// Something changed since it was found that nothing is to be sent.
    pub(super) dirty: bool,
    /// There is something to send, and it waits for clusters.
    pub(super) waiting: bool,
    /// There are removals to send, which wait for the others.
    pub(super) deferred: bool,
}

/// A resource that a proxy rejected.
pub(super) struct Culprit {
    pub(super) name: Arc<str>,
    pub(super) hash: u64,
}

impl TypeState {
    pub(super) fn new(url: &str) -> Self {
        let (rank, kind) = kind_of(url);
        Self {
            url: Arc::from(url),
            rank,
            kind,
            wildcard: false,
            named: BTreeSet::new(),
            demand: Demand::default(),
            names_hash: 0,
            named_before: false,
            last_nonce: 0,
            held: Held::default(),
            blame: Blame::default(),
            outstanding: None,
            owes_answer: false,
            known: false,
            experienced: false,
            dirty: true,
            waiting: false,
            deferred: false,
        }
    }

    // === subscriptions ===

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.held.entry(name).subscribed
    }

    pub(super) fn subscribed_count(&self) -> usize {
        self.held.subscribed_count()
    }

    /// Names this stream holds memory of its own for.
    pub(super) fn own_names(&self) -> usize {
        self.held.own_names() + self.named.len()
    }

    /// Every name that is subscribed other than by wildcard.
    pub(super) fn asked(&self) -> BTreeSet<Arc<str>> {
        if self.wildcard {
            self.named.clone()
        } else {
            self.held.subscribed().cloned().collect()
        }
    }

    /// What the proxy should hold of what is wanted: what comes unasked, and what it named.
    pub(super) fn target(&mut self, wanted: &Wanted) -> ResourceSet {
        self.demand.target(wanted, &self.url, self.wildcard, &self.named)
    }

    /// The proxy may have what comes by name only, from when it came unasked: it keeps all there is. Its old listeners
    /// would not ask for what they miss.
    pub(super) fn keep_all(&mut self) {
        self.demand.keep_all();
        self.dirty = true;
    }

    /// Whether the proxy has something of an earlier time that it has not named and that does not come unasked.
    pub(super) fn has_unnamed<'a>(&self, mut has: impl Iterator<Item = &'a String>, wanted: &Wanted) -> bool {
        let Some(all) = wanted.by_name.get(&self.url) else {
            return false;
        };
        let unasked = |name: &str| wanted.set(&self.url).is_some_and(|set| set.get(name).is_some());
        self.wildcard && has.any(|name| all.get(name).is_some() && !unasked(name) && !self.named.contains(&**name))
    }

    /// Whether a nonce is that of the last response.
    pub(super) fn answers_last(&self, nonce: &str) -> bool {
        nonce == self.last_nonce.to_string()
    }

    /// Whether the proxy is not known to have anything.
    pub(super) fn has_nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// The proxy asks for a name, maybe again: it must be answered.
    pub(super) fn subscribe(&mut self, name: &str, wanted: &ResourceSet) {
        let name = wanted
            .get(name)
            .map_or_else(|| Arc::from(name), |resource| Arc::clone(&resource.name));
        if self.wildcard {
            self.named.insert(Arc::clone(&name));
            self.demand.named(&name);
        }
        self.held.set(
            &name,
            Entry {
                subscribed: true,
                has: Has::Unknown,
            },
        );
        self.supersede(name);
    }

    pub(super) fn unsubscribe(&mut self, name: &str) {
        self.dirty = true;
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.list();
        }
        if self.wildcard {
            self.named.remove(name);
            self.demand.unnamed(name);
            return;
        }
        let name: Arc<str> = Arc::from(name);
        self.held.set(
            &name,
            Entry {
                subscribed: false,
                has: Has::Absent,
            },
        );
    }

    /// The proxy asks for all there is, maybe again.
    pub(super) fn subscribe_all(&mut self) {
        let known: Vec<Arc<str>> = self.held.subscribed().cloned().collect();
        if !self.wildcard {
            self.wildcard = true;
            self.named = known.iter().cloned().collect();
            self.demand.renamed();
        } else {
            for name in known {
                self.resend(&name);
            }
        }
        self.owes_answer = true;
        self.dirty = true;
    }

    /// The proxy asks only for what it named.
    pub(super) fn unsubscribe_all(&mut self) {
        self.dirty = true;
        if !self.wildcard {
            return;
        }
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.complete = false;
            outstanding.list();
        }
        let mut held = Held::default();
        for name in std::mem::take(&mut self.named) {
            held.set(
                &name,
                Entry {
                    subscribed: true,
                    ..self.held.entry(&name)
                },
            );
        }
        self.held = held;
        self.wildcard = false;
    }

    /// What the proxy says it has from an earlier stream.
    pub(super) fn already_has(&mut self, name: &str, version: Option<u64>, wanted: &ResourceSet) {
        if self.covers(name) {
            let name = wanted
                .get(name)
                .map_or_else(|| Arc::from(name), |resource| Arc::clone(&resource.name));
            self.mark(&name, version.map_or(Has::Unknown, Has::Version));
        }
    }

    /// The proxy took a response on an earlier stream; what it holds of it is not known.
    pub(super) fn has_a_past(&mut self) {
        self.experienced = true;
    }

    /// Nothing need be said if there is nothing to say.
    pub(super) fn owes_no_answer(&mut self) {
        self.owes_answer = false;
    }

    /// The proxy, which is known to have nothing, asks for many names at once. Whether they are just those that there are,
    /// so that there is nothing to find out about each.
    pub(super) fn subscribe_to_all_of(&mut self, names: &[String], wanted: &ResourceSet) -> bool {
        let all = !self.wildcard
            && self.held.is_empty()
            && self.outstanding.is_none()
            && names.len() == wanted.len()
            && names
                .iter()
                .zip(wanted.iter())
                .all(|(name, resource)| *name == *resource.name);
        if all {
            self.held.ask_for_all(wanted);
            self.dirty = true;
        }
        all
    }

    /// Has a name sent again though it is equal, if the proxy subscribed to it.
    pub(super) fn resend(&mut self, name: &Arc<str>) {
        if self.covers(name) {
            self.mark(name, Has::Unknown);
            self.supersede(Arc::clone(name));
        }
    }

    fn supersede(&mut self, name: Arc<str>) {
        self.dirty = true;
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.superseded.insert(name);
        }
    }

    fn mark(&mut self, name: &Arc<str>, has: Has) {
        let subscribed = if self.wildcard {
            has != Has::Absent
        } else {
            self.held.entry(name).subscribed
        };
        self.held.set(name, Entry { subscribed, has });
    }

    // === what to send ===

    /// Everything that is to be sent, but for what was rejected.
    fn changes(&self, wanted: &ResourceSet) -> Vec<Change> {
        let mut changes = self.held.changes(wanted, self.wildcard);
        if !self.blame.is_clean() {
            changes.retain(|change| {
                change
                    .resource
                    .as_ref()
                    .is_none_or(|resource| !self.blame.is_rejected(resource))
            });
        }
        changes
    }

    /// Whether something is to be sent.
    pub(super) fn has_changes(&self, wanted: &ResourceSet) -> bool {
        self.owes_answer
            || match self.step(wanted) {
                Some((_, step)) => !step.is_empty(),
                None => !self.changes(wanted).is_empty(),
            }
    }

    /// Whether something is to be sent, or is under way, that the proxy may not have yet under any version.
    pub(super) fn introduces(&self, wanted: &ResourceSet) -> bool {
        match self.step(wanted) {
            Some((_, step)) => step.adds(),
            None => self.changes(wanted).iter().any(Change::is_new),
        }
    }

    /// The set that the proxy has, and what leads from it to what is wanted, if that is all that is to be said and can be
    /// said to all proxies that have the same.
    fn step<'a>(&'a self, wanted: &'a ResourceSet) -> Option<(&'a ResourceSet, &'a Step)> {
        let from = self
            .held
            .shared()
            .filter(|from| self.blame.is_clean() && !from.is_same(wanted))?;
        let step = wanted.step_from(from)?;
        // By name only changed content counts: names that come say nothing of what is subscribed.
        (!step.removes() && (self.wildcard || !step.adds())).then_some((from, step))
    }

    /// As [`Self::next`], for a proxy that takes a step with others, or that gets all there is. Not in the state of the world,
    /// where a response may have to hold more than what changes.
    pub(super) fn next_shared(&mut self, wanted: &ResourceSet) -> Option<Batch> {
        let changes = match self.step(wanted) {
            Some((from, step)) => (!step.is_empty()).then(|| Changes::Step {
                from: from.clone(),
                to: wanted.clone(),
            }),
            None => {
                let whole = !wanted.is_empty() && self.blame.is_clean() && self.held.awaits_all(wanted, self.wildcard);
                whole.then(|| Changes::Whole(wanted.clone()))
            }
        }?;
        (self.owes_answer, self.deferred) = (false, false);
        Some(Batch {
            changes,
            complete: self.wildcard,
        })
    }

    /// The next response, without removals unless `removals`. `None` settles: nothing is to be sent.
    ///
    /// `silent_removals`: this type's responses cannot say that something is gone, only be empty.
    pub(super) fn next(&mut self, wanted: &ResourceSet, removals: bool, silent_removals: bool) -> Option<Batch> {
        let mut changes = self.changes(wanted);
        if silent_removals {
            for change in changes.extract_if(.., |change| change.resource.is_none()) {
                self.owes_answer |= change.before == Has::Unknown;
                self.mark(&change.name, Has::Absent);
            }
        }
        let all = changes.len();
        if !removals {
            // A name that was asked for and does not exist is an answer rather than a removal.
            let asked = |change: &Change| !self.wildcard || self.named.contains(&change.name);
            changes.retain(|change| change.resource.is_some() || (change.before == Has::Unknown && asked(change)));
        }
        self.deferred = changes.len() < all;
        while let Some(part) = self.blame.next_part() {
            let picked: Vec<Change> = changes
                .iter()
                .filter(|change| part.contains(&change.name))
                .cloned()
                .collect();
            if !picked.is_empty() {
                changes = picked;
                break;
            }
        }
        if changes.is_empty() && !self.owes_answer {
            self.dirty = false;
            self.waiting = false;
            if !self.deferred {
                self.held.settle(wanted, self.wildcard);
            }
            return None;
        }
        self.owes_answer = false;
        let complete = self.wildcard && changes.len() == all && self.blame.is_clean();
        Some(Batch {
            changes: Changes::Listed(changes),
            complete,
        })
    }

    /// Every resource of a response that stands for all there is, when `batch` is what it changes: what is not in the
    /// batch stays as the proxy has it.
    pub(super) fn everything(&self, batch: &Batch, wanted: &ResourceSet) -> Vec<Arc<Resource>> {
        if batch.complete {
            return wanted.iter().cloned().collect();
        }
        let changed: BTreeSet<&str> = batch.pieces().map(|piece| &**piece.name).collect();
        let mut resources = Vec::new();
        for resource in wanted.iter() {
            let entry = self.held.entry(&resource.name);
            if !self.wildcard && !entry.subscribed {
                continue;
            }
            if changed.contains(&*resource.name) || entry.has == Has::Version(resource.hash) {
                resources.push(Arc::clone(resource));
            } else if let Some(kept) = self.content(&resource.name) {
                resources.push(Arc::clone(kept));
            } else if matches!(entry.has, Has::Version(_))
                || (entry.has == Has::Unknown && self.blame.is_named(resource))
            {
                // Leaving it out would remove what the proxy has, or may have of an earlier stream.
                resources.push(Arc::clone(resource));
            }
        }
        let leftovers = self
            .held
            .leftovers(wanted)
            .filter(|resource| !changed.contains(&*resource.name));
        resources.extend(leftovers.cloned());
        resources
    }

    /// The content that the proxy has under a name, when it is still at hand.
    fn content(&self, name: &str) -> Option<&Arc<Resource>> {
        let kept = || {
            self.blame
                .kept(name)
                .filter(|kept| self.held.entry(name).has == Has::Version(kept.hash))
        };
        self.held.body(name).or_else(kept)
    }

    /// The batch is on its way.
    ///
    /// `content`: everything it holds, if it stands for all there is.
    pub(super) fn sent(
        &mut self,
        batch: &Batch,
        response: ResponseId,
        target: &ResourceSet,
        content: Option<&[Arc<Resource>]>,
    ) {
        let ResponseId {
            nonce,
            snapshot,
            version,
            ..
        } = response;
        let content = content
            .filter(|_| !batch.complete)
            .map(|resources| resources.iter().cloned().collect());
        let brings = match &batch.changes {
            Changes::Whole(_) => Brings::Target,
            Changes::Step { from, .. } => Brings::Step(from.clone()),
            Changes::Listed(changes) => {
                let all_asked = changes.len() == target.len()
                    && changes.iter().all(|c| c.resource.is_some())
                    && self.held.is_only_asked(target.len(), self.wildcard);
                if content.is_none() && all_asked {
                    Brings::Target
                } else {
                    let listed = |c: &Change| (Arc::clone(&c.name), c.resource.as_ref().map(|r| r.hash));
                    Brings::Listed(changes.iter().map(listed).collect())
                }
            }
        };
        let exact = match &brings {
            Brings::Target | Brings::Step(_) => true,
            Brings::Listed(listed) => {
                content.is_none() && self.held.is_only_behind(listed.len(), target, self.wildcard)
            }
        };
        self.waiting = false;
        self.last_nonce = nonce;
        self.outstanding = Some(Outstanding {
            nonce,
            snapshot,
            version,
            brings,
            exact,
            complete: batch.complete,
            target: target.clone(),
            content,
            superseded: BTreeSet::new(),
        });
    }

    // === answers ===

    /// The proxy has what the response said.
    pub(super) fn acked(&mut self, outstanding: &Outstanding) {
        self.dirty = true;
        self.known = true;
        if outstanding.exact && outstanding.superseded.is_empty() {
            return self.held.become_all(outstanding.target.clone());
        }
        self.took(outstanding.changes(), outstanding);
    }

    /// The proxy rejected the response. Returns who is certainly to blame; for the others the search goes on.
    ///
    /// `full`: the response stood for all there is. Of such, proxies take the good part and name the bad; if they name
    /// nothing they could not even decode it, and have taken nothing.
    pub(super) fn nacked(&mut self, outstanding: &Outstanding, reason: &str, full: bool) -> Vec<Culprit> {
        self.dirty = true;
        let sent: Vec<Culprit> = outstanding
            .changes()
            .filter_map(|(name, hash)| {
                Some(Culprit {
                    name: Arc::clone(name),
                    hash: hash?,
                })
            })
            .collect();
        if sent.is_empty() {
            // Removals only: there is no smaller part to try.
            self.acked(outstanding);
            return sent;
        }
        // A response that stands for all there is may hold, once more, what is known to be bad.
        let known = full && self.blame.names().into_iter().any(|name| mentions(reason, name));
        let alone = sent.len() == 1 && !known;
        let culprits: Vec<Culprit> = sent
            .into_iter()
            .filter(|culprit| alone || (full && mentions(reason, &culprit.name)))
            .collect();
        let kept: Vec<_> = culprits
            .iter()
            .map(|culprit| self.content(&culprit.name).filter(|_| full).cloned())
            .collect();
        let names: BTreeSet<&str> = culprits.iter().map(|culprit| &*culprit.name).collect();
        let others = || outstanding.changes().filter(|(name, _)| !names.contains(&***name));
        let taken = full && (known || culprits.iter().any(|culprit| mentions(reason, &culprit.name)));
        if taken {
            self.took(others(), outstanding);
        } else {
            if !full {
                // It may have been taken in part.
                for (name, _) in others() {
                    if self.covers(name) {
                        self.mark(name, Has::Unknown);
                    }
                }
            }
            if culprits.is_empty() {
                let (removed, changed): (Vec<_>, Vec<_>) = others().partition(|(_, hash)| hash.is_none());
                let names =
                    |list: Vec<(&Arc<str>, Option<u64>)>| list.into_iter().map(|(name, _)| Arc::clone(name)).collect();
                self.blame.split(names(changed), names(removed), reason);
            }
        }
        if full && self.experienced && !self.known {
            // In place of what it refuses by name, the proxy keeps what it had before this stream.
            for culprit in culprits.iter().filter(|culprit| mentions(reason, &culprit.name)) {
                self.mark(&culprit.name, Has::Unknown);
            }
        }
        self.known |= taken;
        // Without the culprits, even if nothing else is to be said.
        self.owes_answer |= full && !self.known && !culprits.is_empty();
        for (culprit, kept) in culprits.iter().zip(kept) {
            let named = mentions(reason, &culprit.name);
            self.blame.reject(Arc::clone(&culprit.name), culprit.hash, kept, named);
        }
        culprits
    }

    fn took<'a>(&mut self, changes: impl Iterator<Item = (&'a Arc<str>, Option<u64>)>, outstanding: &Outstanding) {
        for (name, hash) in changes {
            // Unless it was unsubscribed meanwhile, or asked for again.
            if self.covers(name) && !outstanding.superseded.contains(name) {
                self.mark(name, hash.map_or(Has::Absent, Has::Version));
            }
        }
        // What stays as it is must be said again next time, so its content is kept at hand.
        let whole = || outstanding.complete.then_some(&outstanding.target);
        if let Some(content) = outstanding.content.as_ref().or_else(whole) {
            self.held.rebase(content);
        }
    }

    /// What the proxy does not hold as wanted because it rejected it.
    pub(super) fn rejected<'a>(&'a self, wanted: &'a ResourceSet) -> impl Iterator<Item = &'a Arc<Resource>> {
        let names = self.blame.names();
        names
            .into_iter()
            .filter_map(|name| wanted.get(name))
            .filter(|resource| self.blame.is_rejected(resource))
    }

    /// Whether nothing is under way or to be sent, as far as is known.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding.is_none() && !self.dirty && !self.waiting && !self.deferred && !self.blame.searching()
    }
}
