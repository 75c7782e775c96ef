//! Compiled sets by family and class, and built resources by input.

mod joined;
mod kept;
mod memo;
mod selected;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use lateen_compile::{Changes, Classes, Family, Survey};
use lateen_model::{Diagnostic, Proxy, Snapshot};
use lateen_names::ObjectRef;
use lateen_xds::Wanted;

use joined::Joined;
use selected::Selected;

/// So many proxies of a class have one seat, one after the other.
const TOGETHER: u64 = 16;

const FAMILIES: usize = Family::ALL.len();

/// What every class holds as of one snapshot. Owned by one thread at a time; everything that it hands out is shared and
/// immutable.
///
/// A snapshot costs what differs from the one before: of the classes in use, a set that nothing concerns stays as it is,
/// of one that a few hosts concern these hosts' resources are selected anew, and only what is left is selected whole. What
/// a class holds is put together only when somebody asks.
#[derive(Default)]
pub struct Families {
    now: Option<Now>,
    /// Changes between snapshots turned to since [`Families::take_turns`].
    turns: Vec<Turn>,
    selected: Selected,
    /// Those that proxies are of, and those that somebody asked for under the present snapshot.
    classes: HashMap<Arc<Classes>, Class>,
    /// How many classes there have been.
    met: u64,
}

/// How many sets were found to be right, one way or another, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Nothing concerned them.
    pub kept: u64,
    /// Some hosts' resources were selected anew.
    pub by_hosts: u64,
    /// They were selected whole.
    pub whole: u64,
}

struct Now {
    snapshot: Arc<Snapshot>,
    survey: Survey,
    version: Arc<str>,
}

/// A step from one snapshot to the next, as far as proxies' classes depend on it.
pub struct Turn {
    /// What changed.
    pub changes: Arc<Changes>,
    /// Whether all proxies' Nodes have to be read anew, and their classes.
    pub everybody: bool,
}

/// What is kept of a class.
struct Class {
    number: u64,
    /// How many proxies have taken a seat.
    seated: u64,
    /// Unless nobody has asked yet.
    joined: Option<Joined>,
}

impl Families {
    /// Turns to a snapshot, unless a newer one is in force already. Sets that nobody has asked for since the last one are
    /// forgotten; [`Self::keep_up`] asks for those of all proxies.
    pub fn turn(&mut self, snapshot: &Arc<Snapshot>) {
        let last = self.generation();
        if snapshot.generation <= last && self.now.is_some() {
            return;
        }
        self.selected.forget_unasked(last);
        self.classes.retain(|classes, class| {
            class.joined.take_if(|joined| joined.asked != Some(last));
            class.joined.is_some() || is_in_use(classes)
        });
        let survey = match self.now.take() {
            Some(now) => {
                let changes = Arc::new(Changes::between(&now.snapshot, snapshot));
                let survey = now.survey.next(snapshot, &changes);
                self.selected.turn(&now.snapshot, Arc::clone(&changes));
                self.turns.push(Turn {
                    everybody: changes.concern_everybody() || !survey.classes_alike(&now.survey),
                    changes,
                });
                survey
            }
            None => Survey::new(snapshot),
        };
        self.now = Some(Now {
            snapshot: Arc::clone(snapshot),
            survey,
            version: snapshot.generation.to_string().into(),
        });
    }

    /// Finds out of all classes that proxies are of whether their sets are still right, and selects anew what is not. What they
    /// hold can be asked for then, or after some more turns at no more cost.
    pub fn keep_up(&mut self) {
        let Some(now) = &self.now else { return };
        for (classes, class) in &mut self.classes {
            if let Some(joined) = &mut class.joined
                && is_in_use(classes)
            {
                joined.keep_up(now, classes, &mut self.selected);
            }
        }
    }

    /// Forgets what was before the present snapshot, now that everybody has asked.
    pub fn forget_before(&mut self) {
        self.selected.forget_before();
    }

    /// The snapshot last turned to; `None` before the first.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.now.as_ref().map(|now| &now.snapshot)
    }

    /// Its number; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.snapshot().map_or(0, |snapshot| snapshot.generation)
    }

    /// The steps since the last call: whom none of them concerns has the classes that it had.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// The classes of a proxy under the snapshot last turned to, shared by all proxies that have the same; `None` before
    /// the first snapshot.
    pub fn classes_of(&mut self, proxy: &Proxy) -> Option<Arc<Classes>> {
        let now = self.now.as_ref()?;
        let classes = Classes::read(&now.survey, &now.snapshot, proxy);
        Some(match self.classes.get_key_value(&classes) {
            Some((known, _)) => Arc::clone(known),
            None => {
                let classes = Arc::new(classes);
                class_of(&mut self.classes, &mut self.met, &classes);
                classes
            }
        })
    }

    /// Where a proxy of these classes sits among all proxies, for as long as it likes: those of a class together, so that a
    /// part of all seats has a part of the classes, but not too many in one seat.
    pub fn seat(&mut self, classes: &Arc<Classes>) -> u64 {
        let class = class_of(&mut self.classes, &mut self.met, classes);
        let seat = class.number + class.seated / TOGETHER;
        class.seated += 1;
        seat
    }

    /// Everything that proxies of these classes hold under the snapshot last turned to; nothing before the first.
    pub fn wanted(&mut self, classes: &Arc<Classes>) -> Arc<Wanted> {
        let Some(now) = &self.now else {
            return Arc::default();
        };
        let selected = &mut self.selected;
        class_of(&mut self.classes, &mut self.met, classes)
            .joined
            .get_or_insert_with(|| Joined::new(selected.places(now, classes)))
            .wanted(now, classes, selected)
    }

    /// Which objects made the resource of a name, for a class; empty if there is no such resource.
    pub fn origins(&self, name: &str, family: Family) -> Arc<[ObjectRef]> {
        self.selected.origins(name, family)
    }

    /// Findings of all builds that are in use.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.selected.diagnostics()
    }

    /// How many sets and how many built resources are kept.
    pub fn sizes(&self) -> (usize, usize) {
        self.selected.sizes()
    }

    /// What was done so far.
    pub fn work(&self) -> Work {
        self.selected.work()
    }
}

/// What is kept of a class, which may be a new one.
fn class_of<'a>(known: &'a mut HashMap<Arc<Classes>, Class>, met: &mut u64, classes: &Arc<Classes>) -> &'a mut Class {
    known.entry(Arc::clone(classes)).or_insert_with(|| {
        *met += 1;
        Class {
            number: *met,
            seated: 0,
            joined: None,
        }
    })
}

/// Whether a proxy is of these classes: it holds them, beside the key.
fn is_in_use(classes: &Arc<Classes>) -> bool {
    Arc::strong_count(classes) > 1
}

/// A short text that stands for a class in debug output.
pub(crate) fn class_name(classes: &Classes) -> String {
    let mut hasher = DefaultHasher::new();
    classes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
