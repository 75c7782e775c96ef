//! A rule, in terms that both languages of the kernel's packet filter have.

/// Chains by Istio's names, because other tools look for them.
pub(super) const INBOUND: &str = "ISTIO_INBOUND";
pub(super) const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
pub(super) const REDIRECT: &str = "ISTIO_REDIRECT";
pub(super) const OUTPUT: &str = "ISTIO_OUTPUT";
pub(super) const OUTPUT_DNS: &str = "ISTIO_OUTPUT_DNS";
pub(super) const DROP: &str = "ISTIO_DROP";
pub(super) const DIVERT: &str = "ISTIO_DIVERT";
pub(super) const TPROXY: &str = "ISTIO_TPROXY";
/// What the names of our own chains begin with.
pub(super) const PREFIX: &str = "ISTIO_";
/// Where packets come in, and where those of this machine start.
pub(super) const PREROUTING: &str = "PREROUTING";
pub(super) const LOCAL_OUTPUT: &str = "OUTPUT";

/// A table, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Mangle,
    Nat,
    Raw,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Mangle, Self::Nat, Self::Raw];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Raw => "raw",
        }
    }
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Whose packets: of one IP version, or of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    Both,
    Only(Family),
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    User(String),
    Group(String),
}

/// What a packet must be; all of a rule's matches at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// Came in by this interface; a `+` at the end stands for any rest.
    Incoming(String),
    /// Goes out by this interface.
    Outgoing(String),
    /// Ranges in CIDR form.
    From(String),
    To(String),
    NotTo(String),
    Tcp,
    Udp,
    /// Destination ports. They come after the protocol.
    Port(u16),
    NotPort(u16),
    NotPorts(Vec<u16>),
    SourcePort(u16),
    SentBy(Owner),
    NotSentBy(Owner),
    Mark(u32),
    NotMark(u32),
    ConnectionMark(u32),
    /// Of no connection, and none that begins.
    Invalid,
    /// Of a connection that is known.
    Established,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Return,
    Accept,
    Drop,
    Jump(&'static str),
    Redirect(u16),
    /// To a local socket, its addresses left as they are.
    Transparent {
        port: u16,
        mark: u32,
    },
    SetMark(u32),
    /// The packet's mark becomes the connection's.
    SaveMark,
    /// The connection's mark becomes the packet's.
    RestoreMark,
    /// A space of its own in connection tracking.
    Zone(u16),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) families: Families,
    pub(super) table: Table,
    pub(super) chain: &'static str,
    /// Where it goes in its chain, from 1; none for the end.
    pub(super) position: Option<usize>,
    pub(super) matches: Vec<Match>,
    pub(super) target: Target,
}

// === impl Rule ===

impl Rule {
    /// Whether packets of this IP version are meant.
    pub(super) fn is_for(&self, family: Family) -> bool {
        match self.families {
            Families::Both => true,
            Families::Only(only) => only == family,
        }
    }
}
