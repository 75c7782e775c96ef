//! What is going on, on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How steps are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On standard error.
    Shown,
    /// Not at all.
    Hidden,
}

/// One step, shown while it lasts and summed up in one line when it ends.
pub(crate) struct Step {
    name: String,
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

// === impl Progress ===

impl Progress {
    /// Begins a step of so many parts; without parts it only spins.
    pub(crate) fn step(self, name: impl Into<String>, parts: Option<usize>) -> Step {
        let name = name.into();
        let shown = self == Self::Shown;
        let bar = if shown && std::io::stderr().is_terminal() {
            let bar = parts.map_or_else(ProgressBar::new_spinner, |parts| ProgressBar::new(parts as u64));
            let template = match parts {
                Some(_) => "  {spinner:.cyan} {prefix} {bar:30} {pos}/{len} {elapsed:.dim} {wide_msg:.dim}",
                None => "  {spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            if shown {
                eprintln!("  … {name}");
            }
            ProgressBar::hidden()
        };
        bar.set_prefix(name.clone());
        Step {
            name,
            bar,
            started: Instant::now(),
            shown,
        }
    }
}

// === impl Step ===

impl Step {
    /// One part more is done.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    /// So many parts are done.
    pub(crate) fn at(&self, parts: usize) {
        self.bar.set_position(parts as u64);
    }

    /// What it is at.
    pub(crate) fn say(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Ends it; `note` says what came of it, and may be empty.
    pub(crate) fn done(self, note: &str) {
        self.bar.finish_and_clear();
        if self.shown {
            let colon = if note.is_empty() { "" } else { ": " };
            eprintln!(
                "  ✔ {}{colon}{note} ({:.1} s)",
                self.name,
                self.started.elapsed().as_secs_f64()
            );
        }
    }
}
