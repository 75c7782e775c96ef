//! What the driver saw, request by request, and sums of it: who talks to whom, by which version, how well, as whom.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Answers kept; far more than any window looks back.
const KEPT: usize = 200_000;

/// Milliseconds since 1970, the clock of the driver's lines.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One request of the driver and every call made to answer it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// When it was asked, in milliseconds since 1970.
    pub(super) asked: u64,
    pub(super) micros: u64,
    pub(super) ok: bool,
    pub(super) calls: Vec<Call>,
    /// What went wrong, in the words of whoever saw it.
    pub(super) error: Option<String>,
}

/// One call between two services.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) version: String,
    pub(super) pod: String,
    pub(super) micros: u64,
    pub(super) ok: bool,
    /// Identities of client and server, as the server's proxy told its service.
    pub(super) peer: Option<(String, String)>,
}

/// Everything the driver has reported.
#[derive(Clone, Default)]
pub(super) struct Traffic(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    answers: VecDeque<Answer>,
    total: u64,
    failed: u64,
    last_error: Option<String>,
}

/// Sums over a window of time.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) seconds: f64,
    pub(super) asked: usize,
    pub(super) ok: usize,
    pub(super) micros: Quantiles,
    /// By caller, callee and callee's version.
    pub(super) rows: BTreeMap<(usize, String, String, String), Row>,
}

/// One line of who talks to whom.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) calls: usize,
    pub(super) ok: usize,
    /// Part of the caller's calls to this callee that this version got, from 0 to 1.
    pub(super) share: f64,
    pub(super) micros: Quantiles,
    pub(super) peer: Option<(String, String)>,
    /// Calls whose connection carried no two identities.
    pub(super) without_peer: usize,
    sample: Vec<u64>,
}

/// Middle and tail of durations, in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Quantiles {
    pub(super) p50: u64,
    pub(super) p99: u64,
}

impl Traffic {
    /// Takes in the driver's lines until it ends.
    pub(super) fn read(&self, lines: impl Read) {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let Some(answer) = serde_json::from_str(&line).ok().and_then(|value| parse(&value)) else {
                continue;
            };
            let mut log = self.log();
            log.total += 1;
            if !answer.ok {
                log.failed += 1;
                log.last_error.clone_from(&answer.error);
            }
            log.answers.push_back(answer);
            if log.answers.len() > KEPT {
                log.answers.pop_front();
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests answered and requests failed, ever.
    pub(super) fn totals(&self) -> (u64, u64) {
        let log = self.log();
        (log.total, log.failed)
    }

    /// What the latest failure said.
    pub(super) fn last_error(&self) -> Option<String> {
        self.log().last_error.clone()
    }

    /// The answers to what was asked from `from` until before `to`, in milliseconds since 1970.
    pub(super) fn between(&self, from: u64, to: u64) -> Vec<Answer> {
        let log = self.log();
        // They are in the order in which they were answered, which is nearly that in which they were asked.
        let newest_first = log
            .answers
            .iter()
            .rev()
            .take_while(|answer| answer.asked + 20_000 > from);
        let mut found: Vec<Answer> = newest_first
            .filter(|answer| (from..to).contains(&answer.asked))
            .cloned()
            .collect();
        found.sort_by_key(|answer| answer.asked);
        found
    }

    /// Sums over `from` until before `to`.
    pub(super) fn summary(&self, from: u64, to: u64) -> Summary {
        summary(&self.between(from, to), to.saturating_sub(from))
    }
}

/// The part of calls to `service` that went to `version`, from 0 to 1, and how many calls there were.
pub(super) fn share(answers: &[Answer], service: &str, version: &str) -> (f64, usize) {
    let (mut hits, mut all) = (0_usize, 0_usize);
    for call in answers
        .iter()
        .flat_map(|answer| &answer.calls)
        .filter(|call| call.to == service && !call.version.is_empty())
    {
        all += 1;
        hits += usize::from(call.version == version);
    }
    (ratio(hits, all), all)
}

fn ratio(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo are far below 2^52")]
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn summary(answers: &[Answer], millis: u64) -> Summary {
    #[expect(clippy::cast_precision_loss, reason = "a window is seconds long")]
    let seconds = millis as f64 / 1000.0;
    let mut summary = Summary {
        seconds,
        asked: answers.len(),
        ..Summary::default()
    };
    let mut whole: Vec<u64> = Vec::with_capacity(answers.len());
    let mut sums: BTreeMap<(String, String), usize> = BTreeMap::new();
    for answer in answers {
        summary.ok += usize::from(answer.ok);
        whole.push(answer.micros);
        for call in &answer.calls {
            *sums.entry((call.from.clone(), call.to.clone())).or_default() += 1;
            let key = (
                order(&call.from),
                call.from.clone(),
                call.to.clone(),
                call.version.clone(),
            );
            let row = summary.rows.entry(key).or_default();
            row.calls += 1;
            row.ok += usize::from(call.ok);
            row.without_peer += usize::from(call.peer.is_none());
            row.sample.push(call.micros);
            if call.peer.is_some() {
                row.peer.clone_from(&call.peer);
            }
        }
    }
    summary.micros = quantiles(&mut whole);
    for ((_, from, to, _), row) in &mut summary.rows {
        row.share = ratio(row.calls, sums.get(&(from.clone(), to.clone())).copied().unwrap_or(0));
        row.micros = quantiles(&mut row.sample);
    }
    summary
}

/// Rows go from the outside in.
fn order(from: &str) -> usize {
    ["traffic", "productpage", "details", "reviews"]
        .iter()
        .position(|name| *name == from)
        .unwrap_or(9)
}

fn quantiles(sample: &mut [u64]) -> Quantiles {
    sample.sort_unstable();
    let at = |percent: usize| {
        sample
            .get((sample.len() * percent / 100).min(sample.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    Quantiles {
        p50: at(50),
        p99: at(99),
    }
}

fn parse(line: &Value) -> Option<Answer> {
    let mut calls = Vec::new();
    let mut error = None;
    walk("traffic", line, &mut calls, &mut error);
    Some(Answer {
        asked: line["at"].as_u64()?,
        micros: line["micros"].as_u64()?,
        ok: line["ok"].as_bool()?,
        calls,
        error,
    })
}

fn walk(from: &str, call: &Value, calls: &mut Vec<Call>, error: &mut Option<String>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (reply, peer) = (&call["reply"], &call["reply"]["peer"]);
    let below = reply["calls"].as_array();
    let inner_ok = below.into_iter().flatten().all(|inner| inner["status"] == 200);
    let ok = call["status"] == 200 && inner_ok;
    if call["status"] != 200 && below.is_none_or(Vec::is_empty) {
        *error = Some(format!(
            "{from} → {}: status {}, {}",
            text(&call["to"]),
            call["status"],
            text(&call["error"])
        ));
    }
    calls.push(Call {
        from: from.to_owned(),
        to: text(&call["to"]),
        version: text(&reply["version"]),
        pod: text(&reply["pod"]),
        micros: call["micros"].as_u64().unwrap_or(0),
        ok,
        peer: peer.is_object().then(|| (text(&peer["client"]), text(&peer["server"]))),
    });
    for inner in below.into_iter().flatten() {
        walk(call["to"].as_str().unwrap_or_default(), inner, calls, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, version: &str, status: u16) -> String {
        format!(
            r#"{{"at":{at},"ok":{},"to":"productpage","status":{status},"micros":900,"reply":{{"service":"productpage","version":"v1","pod":"p","peer":{{"client":"c","server":"s"}},"body":1,"calls":[
            {{"to":"reviews","status":{status},"micros":500,"error":"reset","reply":{{"service":"reviews","version":"{version}","pod":"r","body":2}}}}]}}}}"#,
            status == 200
        )
        .replace('\n', "")
    }

    #[test]
    fn shares_rates_and_failures_are_counted() {
        let traffic = Traffic::default();
        let lines = [
            line(1000, "v1", 200),
            line(1100, "v1", 200),
            line(1200, "v3", 200),
            line(1300, "v1", 502),
        ]
        .join("\n");
        traffic.read(lines.as_bytes());

        assert_eq!(traffic.totals(), (4, 1));
        assert_eq!(
            traffic.last_error().unwrap(),
            "productpage → reviews: status 502, reset"
        );
        let sum = traffic.summary(1000, 2000);
        assert_eq!((sum.asked, sum.ok), (4, 3));
        let row = &sum.rows[&(1, "productpage".into(), "reviews".into(), "v3".into())];
        assert_eq!((row.calls, row.share, row.without_peer), (1, 0.25, 1));
        let front = &sum.rows[&(0, "traffic".into(), "productpage".into(), "v1".into())];
        assert_eq!(
            (front.calls, front.ok, front.peer.clone()),
            (4, 3, Some(("c".into(), "s".into())))
        );
        assert_eq!(share(&traffic.between(1000, 1250), "reviews", "v3").1, 3);
    }

    #[test]
    fn quantiles_are_taken_from_the_sorted_sample() {
        let mut sample: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(quantiles(&mut sample), Quantiles { p50: 51, p99: 100 });
        assert_eq!(quantiles(&mut []), Quantiles::default());
    }
}
