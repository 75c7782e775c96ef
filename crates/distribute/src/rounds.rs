//! Who is pushed to next, while changes go on.
//!
//! A change that comes while nothing is under way goes to everybody at once. In a large mesh that takes a while, and what
//! comes meanwhile would wait for all of it, then for all of the next push. So as long as changes go on proxies take turns,
//! a part of them at a time, and each part gets what is newest when its turn comes: whatever comes is everywhere one round
//! later, rather than two.

use std::time::{Duration, Instant};

/// How long the push to one part should take.
const SLICE: Duration = Duration::from_millis(200);
/// Most parts.
const MOST: usize = 5;

/// Those proxies that one push is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    index: usize,
    of: usize,
}

/// Which parts have yet to be told of something.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// By part, when the oldest change was noticed that it was not told of.
    waiting: Vec<Option<Instant>>,
    next: usize,
    /// What the pushes of this round have taken.
    spent: Duration,
}

impl Part {
    /// Everybody.
    pub(crate) const ALL: Self = Self { index: 0, of: 1 };

    /// Whether the proxies of this seat belong to it.
    pub(crate) fn has(self, seat: u64) -> bool {
        seat % self.of as u64 == self.index as u64
    }

    /// How many such parts there are.
    pub(crate) fn of(self) -> u32 {
        u32::try_from(self.of).unwrap_or(u32::MAX)
    }
}

impl Rounds {
    /// Nothing was noticed yet.
    pub(crate) fn new() -> Self {
        Self {
            waiting: vec![None],
            next: 0,
            spent: Duration::ZERO,
        }
    }

    /// There is something new for everybody.
    pub(crate) fn noticed(&mut self, now: Instant) {
        for waiting in &mut self.waiting {
            waiting.get_or_insert(now);
        }
    }

    /// The part whose turn it is, and when the oldest change was noticed that it is told of now; `None` once everybody has
    /// been told of everything.
    pub(crate) fn turn(&mut self) -> Option<(Part, Instant)> {
        let of = self.waiting.len();
        for _ in 0..of {
            let index = self.next;
            self.next += 1;
            if self.next == of {
                self.next = 0;
            }
            if let Some(since) = self.waiting[index].take() {
                return Some((Part { index, of }, since));
            }
            if self.next == 0 {
                // What is known of this round is not all of it.
                self.spent = Duration::ZERO;
            }
        }
        *self = Self::new();
        None
    }

    /// A push to a part took so long. At the end of a round it is seen how many parts the next one needs.
    pub(crate) fn pushed(&mut self, spent: Duration) {
        self.spent += spent;
        if self.next > 0 {
            return;
        }
        let parts = std::mem::take(&mut self.spent).as_secs_f64() / SLICE.as_secs_f64();
        let of = self.waiting.len();
        // Whoever comes to another part may wait longer for once, so that there must be a reason.
        if parts > 1.5 * of as f64 || parts < of as f64 / 3.0 {
            let oldest = self.waiting.iter().flatten().min().copied();
            self.waiting = vec![oldest; (parts.ceil() as usize).clamp(1, MOST)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn everybody_is_told_at_once_where_that_is_quick() {
        let (mut rounds, start) = (Rounds::new(), Instant::now());
        assert_eq!(rounds.turn(), None);
        for change in 0..3 {
            rounds.noticed(start + millis(change));
            assert_eq!(rounds.turn(), Some((Part::ALL, start + millis(change))));
            rounds.pushed(millis(120));
        }
        assert_eq!(rounds.turn(), None);
    }

    #[test]
    fn while_changes_go_on_parts_take_turns() {
        let (mut rounds, start) = (Rounds::new(), Instant::now());
        rounds.noticed(start);
        assert_eq!(rounds.turn(), Some((Part::ALL, start)));
        // Two changes while it goes out: the older one counts.
        rounds.noticed(start + millis(1));
        rounds.noticed(start + millis(2));
        rounds.pushed(millis(800));
        let told = |rounds: &mut Rounds| {
            let (part, since) = rounds.turn().unwrap();
            rounds.pushed(millis(100));
            ((part.index, part.of()), since - start)
        };
        assert_eq!(told(&mut rounds), ((0, 4), millis(1)));
        assert_eq!(told(&mut rounds), ((1, 4), millis(1)));
        // The first two have it to come, the others get it with the rest.
        rounds.noticed(start + millis(250));
        assert_eq!(told(&mut rounds), ((2, 4), millis(1)));
        assert_eq!(told(&mut rounds), ((3, 4), millis(1)));
        assert_eq!(told(&mut rounds), ((0, 4), millis(250)));
        assert_eq!(told(&mut rounds), ((1, 4), millis(250)));
        // All have been told of everything: the next change goes to everybody again.
        assert_eq!(rounds.turn(), None);
        rounds.noticed(start + millis(900));
        assert_eq!(rounds.turn(), Some((Part::ALL, start + millis(900))));
    }

    #[test]
    fn whoever_waits_still_waits_when_parts_become_fewer() {
        let (mut rounds, start) = (Rounds::new(), Instant::now());
        rounds.noticed(start);
        rounds.turn();
        rounds.noticed(start + millis(1));
        rounds.pushed(Duration::from_secs(9));
        assert_eq!(rounds.waiting.len(), MOST);
        for part in 0..MOST {
            assert_eq!(rounds.turn().map(|(part, _)| part.index), Some(part));
            rounds.noticed(start + millis(2));
            rounds.pushed(millis(5));
        }
        assert_eq!(rounds.turn(), Some((Part::ALL, start + millis(2))));
    }

    #[test]
    fn each_seat_is_in_one_part() {
        for of in 1..=MOST {
            let parts: Vec<Part> = (0..of).map(|index| Part { index, of }).collect();
            for seat in 0..100 {
                assert_eq!(parts.iter().filter(|part| part.has(seat)).count(), 1);
            }
        }
    }
}
