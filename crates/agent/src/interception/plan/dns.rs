//! The application's DNS queries go to the agent. Application, agent and resolver use the same addresses and ports, so
//! connection tracking keeps the application's side and the agent's in zones of their own, or their answers would be
//! mixed up.

use super::super::rule::{
    Families, Family, INBOUND, LOCAL_OUTPUT, Match, OUTPUT, OUTPUT_DNS, PREROUTING, Table, Target,
};
use super::{DNS_PORT, Plan, Settings, groups};

/// Connection tracking's zone of what the agent sends to resolvers, and of their answers.
const AGENT: u16 = 1;
/// The zone of what the application asks, and of the agent's answers.
const APPLICATION: u16 = 2;

impl Plan {
    /// Adds the rules for DNS; some resolver is known, or all queries are meant.
    pub(super) fn dns(&mut self, settings: &Settings) {
        self.both(Table::Raw, LOCAL_OUTPUT, vec![], Target::Jump(OUTPUT_DNS));
        let servers = [
            (Family::V4, &settings.dns_servers_v4, 32),
            (Family::V6, &settings.dns_servers_v6, 128),
        ];
        for (family, list, _) in servers {
            if settings.capture_all_dns || !list.is_empty() {
                self.one(family, Table::Nat, OUTPUT, vec![], Target::Jump(OUTPUT_DNS));
            }
        }
        for group in groups(settings) {
            let mut matches = vec![Match::Udp, Match::Port(DNS_PORT)];
            matches.extend(group);
            self.both(Table::Nat, OUTPUT_DNS, matches, Target::Return);
        }
        for protocol in [Match::Tcp, Match::Udp] {
            self.redirected_queries(settings, &servers, &protocol);
        }
        for owner in settings.owners() {
            let asks = vec![Match::Udp, Match::Port(DNS_PORT), Match::SentBy(owner.clone())];
            self.both(Table::Raw, OUTPUT_DNS, asks, Target::Zone(AGENT));
            let answers = vec![Match::Udp, Match::SourcePort(settings.dns_port), Match::SentBy(owner)];
            self.both(Table::Raw, OUTPUT_DNS, answers, Target::Zone(APPLICATION));
        }
        let asks = |to: Option<Match>| [Match::Udp, Match::Port(DNS_PORT)].into_iter().chain(to).collect();
        let answers = |from: Option<Match>| {
            [Match::Udp, Match::SourcePort(DNS_PORT)]
                .into_iter()
                .chain(from)
                .collect()
        };
        if settings.capture_all_dns {
            self.both(Table::Raw, PREROUTING, vec![], Target::Jump(INBOUND));
            self.both(Table::Raw, OUTPUT_DNS, asks(None), Target::Zone(APPLICATION));
            self.both(Table::Raw, INBOUND, answers(None), Target::Zone(AGENT));
            return;
        }
        for (family, list, bits) in servers {
            if !list.is_empty() {
                self.one(family, Table::Raw, PREROUTING, vec![], Target::Jump(INBOUND));
            }
            for server in list {
                let cidr = format!("{server}/{bits}");
                let asked = asks(Some(Match::To(cidr.clone())));
                self.one(family, Table::Raw, OUTPUT_DNS, asked, Target::Zone(APPLICATION));
                let answered = answers(Some(Match::From(cidr)));
                self.one(family, Table::Raw, INBOUND, answered, Target::Zone(AGENT));
            }
        }
    }

    fn redirected_queries(&mut self, settings: &Settings, servers: &[(Family, &Vec<String>, u8)], protocol: &Match) {
        let target = Target::Redirect(settings.dns_port);
        let query = vec![protocol.clone(), Match::Port(DNS_PORT)];
        if settings.capture_all_dns {
            return self.both(Table::Nat, OUTPUT_DNS, query, target);
        }
        for (family, list, bits) in servers {
            for server in *list {
                let mut matches = query.clone();
                matches.push(Match::To(format!("{server}/{bits}")));
                let place = (Table::Nat, OUTPUT_DNS);
                self.add(Families::Only(*family), place, None, matches, target.clone());
            }
        }
    }
}
