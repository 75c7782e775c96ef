//! Churn: endpoints change again and again, as in a mesh that scales and rolls out all the time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::meter::Meter;
use super::{REST, Run, marking_address, phase};
use crate::report::Phase;
use crate::watch::Watch;

/// Addresses that mark changes before churn, one for each round.
const BEFORE: usize = super::ADDED;

/// A change that is timed at every sidecar.
struct Timed {
    service: usize,
    watch: Arc<Watch>,
}

// === impl Run ===

impl Run<'_> {
    /// How many changes churn makes.
    pub(super) fn changes(&self) -> usize {
        (self.plan.churn_for.as_secs_f64() * f64::from(self.plan.churn)).ceil() as usize
    }

    /// Changes EndpointSlices by turns, and times one of them a second, and the last, at every sidecar.
    pub(super) async fn churn(&self) -> Result<Phase> {
        let (plan, changes) = (self.plan, self.changes());
        let step = self.progress.step(phase::CHURN, Some(changes));
        let meter = Meter::start(&self.fleet, plan.pid, phase::CHURN)?;
        let mut ticks = interval(Duration::from_secs(1) / plan.churn);
        let (mut timed, mut writes) = (Vec::<Timed>::new(), JoinSet::new());
        let mut service = 0;
        for change in 0..changes {
            ticks.tick().await;
            service = self.next_service(service, &timed);
            let mark = marking_address(self.stamp, BEFORE + change);
            let object = self.mesh.endpoints(service, Some(&mark));
            if change % plan.churn as usize == 0 || change + 1 == changes {
                let watch = self.fleet.watch(&mark);
                timed.push(Timed { service, watch });
            }
            // A slow API server must not slow the churn.
            let writer = self.writer.clone();
            writes.spawn(async move { writer.apply(&object).await });
            while let Some(written) = writes.try_join_next() {
                written.context("a write was given up")??;
            }
            step.advance();
            step.say(format!(
                "{} changes are on their way",
                timed.iter().filter(|timed| timed.missing() > 0).count()
            ));
        }
        let ended = Instant::now();
        while let Some(written) = writes.join_next().await {
            written.context("a write was given up")??;
        }
        for timed in &timed {
            timed.watch.all(plan.limit.saturating_sub(ended.elapsed())).await;
        }
        let backlog = ended.elapsed().as_secs_f64() * 1e3;
        self.fleet.quiet(plan.quiet, REST).await;
        let arrivals = timed.iter().flat_map(|timed| timed.watch.millis()).collect();
        let mut phase = meter.stop(&self.fleet, changes, arrivals)?;
        phase.missed = timed.iter().map(Timed::missing).sum();
        phase.backlog = Some(backlog);
        for timed in &timed {
            self.fleet.unwatch(&timed.watch);
        }
        step.done(
            &phase
                .latency
                .map_or_else(String::new, |found| format!("p99 {:.1} ms", found.p99)),
        );
        Ok(phase)
    }

    /// The next service by turns that has endpoints of its own and no change on its way: another would take its place
    /// before all have seen it.
    fn next_service(&self, last: usize, timed: &[Timed]) -> usize {
        let under_way = |service| {
            timed
                .iter()
                .any(|timed| timed.service == service && timed.missing() > 0)
        };
        let next = |ahead| (last + ahead) % self.mesh.services;
        (1..=self.mesh.services)
            .map(next)
            .find(|service| !self.mesh.is_headless(*service) && !under_way(*service))
            .unwrap_or(self.plain_service(last + 1))
    }
}

// === impl Timed ===

impl Timed {
    fn missing(&self) -> usize {
        self.watch.missing()
    }
}
