//! What comes out: the way a request took, and how it ended.

use serde::Serialize;

use crate::headers::HeaderChange;
use crate::upstream::Upstream;

/// How many of those that lost are named.
const NAMED: usize = 8;

/// What a step decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The listener.
    Listener,
    /// The filter chain.
    FilterChain,
    /// A filter of connections.
    NetworkFilter,
    /// The route table.
    RouteTable,
    /// The virtual host.
    VirtualHost,
    /// The route.
    Route,
    /// A filter of requests.
    HttpFilter,
    /// The cluster.
    Cluster,
}

/// Something that was looked at and did not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Beaten {
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
    /// The object that it is made of, by API path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Where it stands, if it is a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The object and field that it is made of, where [`Proxy::name_routes`](crate::Proxy::name_routes) said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// Where a route stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The route table.
    pub table: String,
    /// The virtual host.
    pub host: String,
    /// The route among those of the virtual host.
    pub index: usize,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is decided.
    pub kind: Kind,
    /// What was chosen.
    pub name: String,
    /// Why.
    pub why: String,
    /// What lost, and why; the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beaten: Vec<Beaten>,
    /// How many more lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub beaten_more: usize,
    /// What else is to be known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The object that it is made of, by API path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Where it stands, if it is a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The object and field that it is made of, where [`Proxy::name_routes`](crate::Proxy::name_routes) said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Step {
    pub(crate) fn new(kind: Kind, name: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            why: why.into(),
            beaten: Vec::new(),
            beaten_more: 0,
            notes: Vec::new(),
            object: None,
            place: None,
            origin: None,
        }
    }

    pub(crate) fn with_beaten(mut self, mut beaten: Vec<Beaten>) -> Self {
        self.beaten_more = beaten.len().saturating_sub(NAMED);
        beaten.truncate(NAMED);
        self.beaten = beaten;
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl Beaten {
    pub(crate) fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            reason: reason.into(),
            object: None,
            place: None,
            origin: None,
        }
    }
}

/// An answer of the proxy itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers that configuration makes; not those that Envoy adds to every answer.
    pub headers: Vec<(String, String)>,
    /// Body, where configuration says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What answers, and why.
    pub by: String,
}

/// A copy of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mirror {
    /// Where it goes.
    pub cluster: String,
    /// Of what share of requests, 0 to 1.
    pub share: f64,
    /// `:authority` of the copy.
    pub authority: String,
}

/// An injected delay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Delay {
    /// How long, in milliseconds.
    pub milliseconds: u64,
    /// Of what share of requests, 0 to 1.
    pub share: f64,
}

/// When a failed request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// Envoy's conditions.
    pub on: String,
    /// How often at most.
    pub attempts: u32,
    /// Time-out of each attempt, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<u64>,
    /// Status codes that count as failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<u32>,
}

/// What of a forwarded request is HTTP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HttpForward {
    /// Method.
    pub method: String,
    /// `:authority` toward the upstream.
    pub authority: String,
    /// Path with query toward the upstream.
    pub path: String,
    /// The request's headers toward the upstream: the client's, changed as configuration says. Of what Envoy itself
    /// adds to every request only `x-forwarded-proto` and `x-forwarded-for` are among them, not `x-request-id` and the like.
    pub headers: Vec<(String, String)>,
    /// What was done to the request's headers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request: Vec<HeaderChange>,
    /// What is done to the answer's headers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response: Vec<HeaderChange>,
    /// Time-out of the whole, in milliseconds; `None` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// Hedging, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedging: Option<String>,
    /// Mirrors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// What chooses the endpoint, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<String>,
}

/// A request or connection that goes on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forward {
    /// Where.
    pub cluster: String,
    /// The cluster's settings and endpoints; `None` where the proxy has no such cluster among what was decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// What of it is HTTP; `None` for bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpForward>,
    /// Injected delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The proxy answers.
    Answered(Answer),
    /// It goes on to an upstream.
    Forwarded(Box<Forward>),
    /// The connection is not taken, or closed without an answer.
    Refused {
        /// Why.
        reason: String,
    },
}

/// One of the ways it may end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// How likely, 0 to 1; all together are 1.
    pub share: f64,
    /// Decisions of this outcome alone, after the common ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// The end.
    pub verdict: Verdict,
}

/// The way a request takes, and how it ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    /// Decisions that all outcomes share, in order.
    pub steps: Vec<Step>,
    /// The ends; never empty.
    pub outcomes: Vec<Outcome>,
}

impl Trace {
    /// Moves what all outcomes begin with to the front.
    pub(crate) fn of(mut outcomes: Vec<Outcome>) -> Self {
        let shared = outcomes.first().map_or(0, |first| {
            (0..first.steps.len())
                .take_while(|at| outcomes.iter().all(|one| one.steps.get(*at) == first.steps.get(*at)))
                .count()
        });
        let mut steps = Vec::new();
        for outcome in &mut outcomes {
            steps = outcome.steps.drain(..shared).collect();
        }
        Self { steps, outcomes }
    }

    /// Decisions of one outcome from the first on.
    pub fn steps_of<'a>(&'a self, outcome: &'a Outcome) -> impl Iterator<Item = &'a Step> {
        self.steps.iter().chain(&outcome.steps)
    }

    /// The likeliest end; the first of equal ones.
    pub fn verdict(&self) -> Option<&Verdict> {
        let mut best: Option<&Outcome> = None;
        for outcome in &self.outcomes {
            if best.is_none_or(|best| outcome.share > best.share) {
                best = Some(outcome);
            }
        }
        best.map(|outcome| &outcome.verdict)
    }

    /// Clusters with their shares of all requests, in order.
    pub fn clusters(&self) -> Vec<(&str, f64)> {
        let mut all: Vec<(&str, f64)> = Vec::new();
        for outcome in &self.outcomes {
            if let Verdict::Forwarded(forward) = &outcome.verdict {
                match all.iter_mut().find(|(name, _)| *name == forward.cluster) {
                    Some((_, share)) => *share += outcome.share,
                    None => all.push((&forward.cluster, outcome.share)),
                }
            }
        }
        all
    }
}
