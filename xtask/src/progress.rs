//! Progress of long steps: a spinner on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// One long step, shown while it lasts and summed up in one line when it ends.
pub(crate) struct Step {
    name: String,
    bar: ProgressBar,
    started: Instant,
}

impl Step {
    /// Begins to show `name`.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            eprintln!("  … {name}");
            ProgressBar::hidden()
        };
        bar.set_prefix(name.clone());
        Self {
            name,
            bar,
            started: Instant::now(),
        }
    }

    /// Shows what the step is at.
    pub(crate) fn at(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Ends it well; `note` says what came of it, and may be empty.
    pub(crate) fn done(self, note: &str) {
        self.end("✔", note);
    }

    /// Ends it badly.
    pub(crate) fn failed(self, note: &str) {
        self.end("✘", note);
    }

    fn end(self, mark: &str, note: &str) {
        self.bar.finish_and_clear();
        let took = self.started.elapsed();
        let took = if took < Duration::from_secs(1) {
            format!("{} ms", took.as_millis())
        } else if took < Duration::from_secs(60) {
            format!("{:.1} s", took.as_secs_f64())
        } else {
            HumanDuration(took).to_string()
        };
        let note = if note.is_empty() {
            String::new()
        } else {
            format!(": {note}")
        };
        eprintln!("  {mark} {}{note} ({took})", self.name);
    }
}

/// Runs a command to its end behind a spinner that shows its last line; what it printed comes out only if it fails.
///
/// # Errors
/// When it cannot be started or exits non-zero; the error carries the end of its output.
pub(crate) fn quiet(name: &str, command: &mut Command) -> Result<()> {
    let step = Step::start(name);
    match stream(&step, command) {
        Ok(()) => {
            step.done("");
            Ok(())
        }
        Err(error) => {
            step.failed("");
            Err(error)
        }
    }
}

fn stream(step: &Step, command: &mut Command) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let what = format!("{} {}", command.get_program().display(), shown_args(command));
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {what}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, err) = std::thread::scope(|scope| {
        let out = scope.spawn(|| {
            stdout
                .map(|pipe| std::io::read_to_string(pipe).unwrap_or_default())
                .unwrap_or_default()
        });
        let mut err = String::new();
        if let Some(pipe) = stderr {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                step.at(line.trim());
                err.push_str(&line);
                err.push('\n');
            }
        }
        (out.join().unwrap_or_default(), err)
    });
    let status = child.wait().with_context(|| format!("cannot wait for {what}"))?;
    if !status.success() {
        bail!("`{what}` failed ({status})\n{}", tail(&format!("{out}{err}"), 120));
    }
    Ok(())
}

fn shown_args(command: &Command) -> String {
    command
        .get_args()
        .map(|arg| arg.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last `count` lines of `text`.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
