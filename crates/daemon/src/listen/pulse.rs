//! Whether a connection is of use: what is asked over it, and when last.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

use super::strangers::Place;

/// Time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until a caller has proved something, from the beginning.
    pub stranger: Duration,
    /// Without any request under way.
    pub idle: Duration,
}

/// What goes on on a connection.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    known: AtomicBool,
    place: Mutex<Option<Place>>,
    /// Requests under way, and when the last one ended.
    requests: Mutex<(usize, Instant)>,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Beat(Arc<Pulse>);

/// An answer whose request is under way as long as it lasts.
pub(crate) struct Answering<B> {
    body: B,
    _beat: Beat,
}

impl Pulse {
    pub(crate) fn new(place: Place) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            began: now,
            known: AtomicBool::new(false),
            place: Mutex::new(Some(place)),
            requests: Mutex::new((0, now)),
        })
    }

    /// A request begins.
    pub(crate) fn beat(self: &Arc<Self>) -> Beat {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Beat(Arc::clone(self))
    }

    /// The caller is no stranger any more.
    pub(crate) fn known(&self) {
        self.known.store(true, Ordering::Relaxed);
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Returns, with the reason, when the connection is of no use any more.
    pub(crate) async fn lost(&self, patience: Patience) -> &'static str {
        loop {
            let now = Instant::now();
            let (under_way, last) = *self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            let stranger = !self.known.load(Ordering::Relaxed);
            let (stranger_until, idle_until) = (self.began + patience.stranger, last + patience.idle);
            if stranger && stranger_until <= now {
                return "the caller proved nothing in time";
            }
            if under_way == 0 && idle_until <= now {
                return "nothing was asked for long";
            }
            let idle_until = if under_way == 0 {
                idle_until
            } else {
                now + patience.idle
            };
            sleep_until(if stranger {
                idle_until.min(stranger_until)
            } else {
                idle_until
            })
            .await;
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let mut requests = self.0.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests = (requests.0.saturating_sub(1), Instant::now());
    }
}

impl<B> Answering<B> {
    pub(crate) fn new(body: B, beat: Beat) -> Self {
        Self { body, _beat: beat }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
