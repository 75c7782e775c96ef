//! Sets of small numbers, one bit each.

/// A set of numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(Vec<u64>);

// === impl Numbers ===

impl Numbers {
    /// Puts a number in; whether it was not in before.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = place(number);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Takes a number out; whether it was in.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let was = self.contains(number);
        if was {
            let (word, bit) = place(number);
            self.0[word] &= !bit;
        }
        was
    }

    /// Whether a number is in.
    pub(crate) fn contains(&self, number: u32) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|found| found & bit != 0)
    }

    /// Whether none is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

fn place(number: u32) -> (usize, u64) {
    ((number / 64) as usize, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out() {
        let mut numbers = Numbers::default();
        assert!(numbers.is_empty() && !numbers.contains(1_000));
        assert!(numbers.insert(1_000) && !numbers.insert(1_000) && numbers.insert(63));
        assert!(numbers.contains(1_000) && numbers.contains(63) && !numbers.contains(64));
        assert!(numbers.remove(1_000) && !numbers.remove(1_000) && !numbers.remove(5_000));
        assert!(!numbers.is_empty());
        assert!(numbers.remove(63) && numbers.is_empty());
    }
}
