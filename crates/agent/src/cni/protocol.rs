//! What the plugin asks of the node agent: one JSON object over the agent's socket, the pod's network namespace beside
//! it as an open file; the answer is one JSON object.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// How long a message may take; the agent's work comes on top.
const MESSAGE: Duration = Duration::from_secs(10);
/// How long the plugin waits for the agent's work: less than kubelet waits for the plugin.
const WORK: Duration = Duration::from_secs(60);
const MAXIMUM: u64 = 1 << 20;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Command {
    /// Set the pod up.
    Add,
    /// See whether it is set up.
    Check,
    /// Only answer.
    Status,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) command: Command,
    pub(super) namespace: String,
    pub(super) pod: String,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What went wrong.
    #[serde(default)]
    pub(super) error: Option<String>,
}

/// Asks the agent.
///
/// # Errors
/// When nobody listens, there is no answer in time, or the answer says so.
pub(super) fn ask(socket: &Path, question: &Question, namespace: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
    let name = || format!("the node agent at {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(name)?;
    stream.set_write_timeout(Some(MESSAGE))?;
    stream.set_read_timeout(Some(WORK))?;
    let text = serde_json::to_vec(question)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = namespace.into_iter().collect();
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&files)) {
        bail!("no room for a file");
    }
    let sent = rustix::net::sendmsg(&stream, &[IoSlice::new(&text)], &mut beside, SendFlags::NOSIGNAL);
    let sent = sent.with_context(name)?;
    stream.write_all(&text[sent..]).with_context(name)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(MAXIMUM).read_to_end(&mut answer).with_context(name)?;
    let answer: Answer = serde_json::from_slice(&answer).with_context(|| format!("{}: no answer", name()))?;
    match answer.error {
        None => Ok(()),
        Some(error) => bail!("{error}"),
    }
}

/// Reads a question.
///
/// # Errors
/// When there is none in time.
pub(super) fn read(stream: &mut UnixStream) -> anyhow::Result<(Question, Option<OwnedFd>)> {
    stream.set_read_timeout(Some(MESSAGE))?;
    let mut text = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = rustix::net::recvmsg(stream.as_fd(), &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let file = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    text.truncate(received.bytes);
    stream.take(MAXIMUM).read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text).context("question")?, file))
}

/// Answers.
///
/// # Errors
/// When the plugin has gone.
pub(super) fn answer(stream: &mut UnixStream, answer: &Answer) -> anyhow::Result<()> {
    stream.set_write_timeout(Some(MESSAGE))?;
    Ok(stream.write_all(&serde_json::to_vec(answer)?)?)
}
