//! The terminal: a live picture where there is one, plain lines where there is not.

use std::time::{Duration, Instant};

use console::{Term, style, truncate_str};

use super::traffic::{Quantiles, Summary, Traffic, now};

/// How often the picture changes.
const REFRESH: Duration = Duration::from_millis(200);
/// How far back the live picture looks, in milliseconds.
const WINDOW: u64 = 2000;

/// Everything the demo shows.
pub(super) struct Screen {
    term: Term,
    live: bool,
    title: String,
    done: Vec<String>,
    current: Option<(String, Instant)>,
    drawn: usize,
    last: Option<Instant>,
}

impl Screen {
    /// A screen with `title` on top; `live` only has an effect on a terminal.
    pub(super) fn new(title: String, live: bool) -> Self {
        let term = Term::stdout();
        let live = live && term.is_term();
        Self {
            term,
            live,
            title,
            done: Vec::new(),
            current: None,
            drawn: 0,
            last: None,
        }
    }

    /// Replaces the title.
    pub(super) fn title(&mut self, title: String) {
        if !self.live && title != self.title {
            self.say(&title);
        }
        self.title = title;
    }

    /// Shows what is being waited for.
    pub(super) fn begin(&mut self, step: &str) {
        if !self.live {
            self.say(&format!("… {step}"));
        }
        self.current = Some((step.to_owned(), Instant::now()));
    }

    /// Says how the current step ended, and keeps the line.
    pub(super) fn end(&mut self, well: bool, note: &str, traffic: &Traffic) {
        let Some((step, since)) = self.current.take() else {
            return;
        };
        let mark = if well { style("✔").green() } else { style("✘").red() };
        let line = format!(
            "{mark} {step}: {note} {}",
            style(format!("({:.1} s)", since.elapsed().as_secs_f64())).dim()
        );
        if self.live {
            self.done.extend(line.lines().map(str::to_owned));
            self.draw(traffic, true);
        } else {
            self.say(&line);
        }
    }

    /// Prints the table once, where there is no live one.
    pub(super) fn table_once(&self, traffic: &Traffic) {
        if !self.live {
            let summary = traffic.summary(now().saturating_sub(WINDOW), now());
            for line in table(&summary, traffic.totals(), 200) {
                self.say(&line);
            }
        }
    }

    /// Prints the story so far and `lines` for good, above the picture, which goes on with traffic alone.
    pub(super) fn leave(&mut self, lines: &[String]) {
        if self.drawn > 0 {
            let _ = self.term.clear_last_lines(self.drawn);
            self.drawn = 0;
        }
        for line in self.done.drain(..).collect::<Vec<_>>().iter().chain(lines) {
            self.say(line);
        }
    }

    /// Draws the picture, if it is live and time to.
    pub(super) fn refresh(&mut self, traffic: &Traffic) {
        self.draw(traffic, false);
    }

    fn draw(&mut self, traffic: &Traffic, at_once: bool) {
        if !self.live || (!at_once && self.last.is_some_and(|last| last.elapsed() < REFRESH)) {
            return;
        }
        self.last = Some(Instant::now());
        let (rows, columns) = self.term.size();
        let width = usize::from(columns).max(40);
        let mut lines = vec![style(&self.title).bold().to_string()];
        let totals = traffic.totals();
        if totals.0 > 0 {
            lines.push(String::new());
            lines.extend(table(
                &traffic.summary(now().saturating_sub(WINDOW), now()),
                totals,
                width,
            ));
        }
        lines.push(String::new());
        lines.extend(self.done.iter().cloned());
        if let Some((step, since)) = &self.current {
            const TURNS: [char; 4] = ['◐', '◓', '◑', '◒'];
            let turn = TURNS[usize::try_from(since.elapsed().as_millis() / 200).unwrap_or(0) % TURNS.len()];
            lines.push(format!(
                "{} {step} {}",
                style(turn).cyan(),
                style(format!("{:.0} s", since.elapsed().as_secs_f64())).dim()
            ));
        }
        // What scrolled away cannot be drawn over: keep the picture within the window.
        lines.truncate(usize::from(rows).saturating_sub(1).max(5));

        let mut frame = String::new();
        if self.drawn > 0 {
            frame.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            frame.push_str("\r\x1b[2K");
            frame.push_str(&truncate_str(line, width, "…"));
            frame.push('\n');
        }
        frame.push_str("\x1b[0J");
        self.drawn = lines.len();
        let _ = self.term.write_str(&frame);
        let _ = self.term.flush();
    }

    fn say(&self, line: &str) {
        let _ = self.term.write_line(line);
    }
}

/// Who talks to whom, as lines.
fn table(summary: &Summary, totals: (u64, u64), width: usize) -> Vec<String> {
    let rate = |count: usize| {
        #[expect(clippy::cast_precision_loss, reason = "counts of a demo are far below 2^52")]
        if summary.seconds > 0.0 {
            count as f64 / summary.seconds
        } else {
            0.0
        }
    };
    let (total, failed) = totals;
    let failures = if failed == 0 {
        style(format!("0 of {total} failed")).green()
    } else {
        style(format!("{failed} of {total} failed")).red()
    };
    let Quantiles { p50, p99 } = summary.micros;
    let mut lines = vec![
        format!(
            "{:.0} requests/s   {} ok   p50 {}   p99 {}   {failures}",
            rate(summary.asked),
            percent(summary.ok, summary.asked),
            millis(p50),
            millis(p99),
        ),
        String::new(),
        style(format!(
            "{:<12} {:<12} {:<8} {:>6} {:>7} {:>7} {:>9} {:>9}  {}",
            "FROM", "TO", "VERSION", "SHARE", "REQ/S", "OK", "P50", "P99", "MUTUAL TLS: CLIENT → SERVER"
        ))
        .dim()
        .to_string(),
    ];
    for ((_, from, to, version), row) in &summary.rows {
        let peer = match &row.peer {
            Some((client, server)) => format!("{} → {}", short(client), short(server)),
            None if to == "stock" => "TCP: counted by stock's Envoy".to_owned(),
            None => style("no identity seen").red().to_string(),
        };
        let version = if version.is_empty() { "–" } else { version };
        let line = format!(
            "{from:<12} {to:<12} {version:<8} {:>6} {:>7.1} {:>7} {:>9} {:>9}  {peer}",
            format!("{:.0} %", row.share * 100.0),
            rate(row.calls),
            percent(row.ok, row.calls),
            millis(row.micros.p50),
            millis(row.micros.p99),
        );
        lines.push(truncate_str(&line, width, "…").into_owned());
    }
    lines
}

/// `spiffe://cluster.local/ns/shop/sa/reviews` as `ns/shop/sa/reviews`.
fn short(identity: &str) -> &str {
    identity
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or(identity, |(_, path)| path)
}

fn percent(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    // Rounded down: 100 % means all.
    let tenths = part * 1000 / whole;
    if tenths == 1000 {
        "100 %".to_owned()
    } else {
        format!("{}.{} %", tenths / 10, tenths % 10)
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_flatter() {
        assert_eq!(percent(9_999, 10_000), "99.9 %");
        assert_eq!(percent(10, 10), "100 %");
        assert_eq!(percent(0, 0), "–");
        assert_eq!(millis(12_345), "12.3 ms");
        assert_eq!(short("spiffe://cluster.local/ns/shop/sa/reviews"), "ns/shop/sa/reviews");
    }
}
