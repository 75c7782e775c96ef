//! Inbound by TPROXY: a packet's addresses stay as they are, a mark routes it to this machine, where Envoy's socket
//! takes it.

use super::super::rule::{DIVERT, Families, Family, INBOUND, LOCAL_OUTPUT, Match, PREROUTING, TPROXY, Table, Target};
use super::{LOOPBACK, PASSTHROUGH, Plan, Settings};

/// Marks what the proxy sends to its own pod, which comes in over loopback and is to be taken there.
const TO_OWN_POD: u32 = 1338;

impl Plan {
    /// Adds the rules for inbound connections; some port is wanted.
    pub(super) fn transparent(&mut self, settings: &Settings, mark: u32) {
        self.both(Table::Mangle, DIVERT, vec![], Target::SetMark(mark));
        self.both(Table::Mangle, DIVERT, vec![], Target::Accept);
        let port = settings.inbound_port;
        for family in [Family::V4, Family::V6] {
            let matches = vec![Match::NotTo(settings.loopback(family)), Match::Tcp];
            self.one(
                family,
                Table::Mangle,
                TPROXY,
                matches,
                Target::Transparent { port, mark },
            );
        }
        self.both(Table::Mangle, PREROUTING, vec![Match::Tcp], Target::Jump(INBOUND));
        self.inbound_ports(settings, Table::Mangle, Self::taken);
        // The mark stays with the connection, for what Envoy answers, and for Envoy's own connection to the application,
        // which has the client's address as its source.
        let marked = vec![Match::Tcp, Match::Mark(mark)];
        self.both(Table::Mangle, PREROUTING, marked, Target::SaveMark);
        let to_application = vec![Match::Tcp, Match::Outgoing(LOOPBACK.into()), Match::Mark(mark)];
        self.both(Table::Mangle, LOCAL_OUTPUT, to_application, Target::Return);
        for owner in settings.owners() {
            for family in [Family::V4, Family::V6] {
                let matches = vec![
                    Match::NotTo(settings.loopback(family)),
                    Match::Tcp,
                    Match::Outgoing(LOOPBACK.into()),
                    Match::SentBy(owner.clone()),
                ];
                self.one(
                    family,
                    Table::Mangle,
                    LOCAL_OUTPUT,
                    matches,
                    Target::SetMark(TO_OWN_POD),
                );
            }
        }
        let of_connection = vec![Match::Tcp, Match::ConnectionMark(mark)];
        self.both(Table::Mangle, LOCAL_OUTPUT, of_connection, Target::RestoreMark);
        self.exceptions(mark);
    }

    /// Ahead of everything: what has the mark already, Envoy's connections to the application, and what the application
    /// says to itself. The last one comes first, each next one is put before it.
    fn exceptions(&mut self, mark: u32) {
        let place = (Table::Mangle, INBOUND);
        let loopback = || Match::Incoming(LOOPBACK.into());
        let others = vec![Match::Tcp, loopback(), Match::NotMark(TO_OWN_POD)];
        self.add(Families::Both, place, Some(1), others, Target::Return);
        for (family, from) in [(Family::V4, PASSTHROUGH.0), (Family::V6, PASSTHROUGH.1)] {
            let matches = vec![Match::Tcp, Match::From(from.into()), loopback()];
            self.add(Families::Only(family), place, Some(1), matches, Target::Return);
        }
        let marked = vec![Match::Tcp, Match::Mark(mark)];
        self.add(Families::Both, place, Some(1), marked, Target::Return);
    }

    /// New connections go to Envoy's socket; packets of one that is there already only need the mark.
    fn taken(&mut self, matches: Vec<Match>) {
        let mut known = matches.clone();
        known.push(Match::Established);
        self.both(Table::Mangle, INBOUND, known, Target::Jump(DIVERT));
        self.both(Table::Mangle, INBOUND, matches, Target::Jump(TPROXY));
    }
}
