// SPDX-License-Identifier: Apache-2.0
//! One entry of a policy: `ADDRESS`, `ADDRESS/PREFIX`, either with ` PROTOCOL:PORTS` behind, or a name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name (RFC 1035, section 2.3.4), and longest label.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Most ranges of ports of one entry.
const MAX_RANGES: usize = 16;

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// Addresses, and ports if it has some: then only TCP or UDP.
    Net {
        /// The addresses.
        net: IpNet,
        /// All, if there are none.
        ports: Option<Ports>,
    },
    /// What a name stands for when the sandbox asks for it, on all ports.
    Name(Name),
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Whose.
    pub protocol: Protocol,
    /// First and last of each range.
    pub ranges: Vec<(u16, u16)>,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A name in lower case, or with `*.` in front all the names below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Destination {
    /// The name, if it is one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Destination::Name(name) => Some(name),
            Destination::Net { .. } => None,
        }
    }

    /// How many rules it takes.
    pub(super) fn cost(&self) -> usize {
        match self {
            Destination::Net {
                ports: Some(ports), ..
            } => ports.ranges.len(),
            _ => 1,
        }
    }
}

impl Name {
    /// Whether a name, with or without the dot behind, is this one or below it.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            // With the dot, so that `*.a.org` is neither `a.org` nor `ba.org`.
            Some(below) => {
                name.len() > below.len() && name.ends_with(below) && !name.starts_with('.')
            }
            None => name == self.0,
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| DestinationError {
            text: text.chars().take(MAX_NAME).collect(),
            reason,
        };
        let (target, ports) = match text.split_once(' ') {
            Some((target, ports)) => (target, Some(parse_ports(ports).map_err(invalid)?)),
            None => (text, None),
        };
        if let Ok(ip) = target.parse::<IpAddr>() {
            let net = ip.into();
            return Ok(Destination::Net { net, ports });
        }
        if target.contains('/') {
            let net: IpNet = target.parse().map_err(|_| invalid(Reason::Net))?;
            if net.trunc() != net {
                return Err(invalid(Reason::HostBits));
            }
            return Ok(Destination::Net { net, ports });
        }
        match ports {
            None => parse_name(target).map(Destination::Name).map_err(invalid),
            Some(_) => Err(invalid(Reason::NameWithPorts)),
        }
    }
}

fn parse_ports(text: &str) -> Result<Ports, Reason> {
    let (protocol, list) = text.split_once(':').ok_or(Reason::Ports)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(Reason::Ports),
    };
    let ranges: Vec<_> = list
        .split(',')
        .map(parse_range)
        .collect::<Option<_>>()
        .ok_or(Reason::Ports)?;
    if ranges.len() > MAX_RANGES {
        return Err(Reason::Ports);
    }
    Ok(Ports { protocol, ranges })
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    // `parse` takes a sign, which no port has.
    let port = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first > 0 && first <= last).then_some((first, last))
}

fn parse_name(text: &str) -> Result<Name, Reason> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    let good = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(allowed)
    };
    // An address that was mistyped is not to pass for a name.
    let numeric = labels
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > MAX_NAME || numeric || !labels.split('.').all(good) {
        return Err(Reason::Name);
    }
    Ok(Name(name))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Name(name) => write!(f, "{name}"),
            Destination::Net { net, ports } => {
                let single = net.prefix_len() == net.max_prefix_len();
                if single {
                    write!(f, "{}", net.addr())?;
                } else {
                    write!(f, "{net}")?;
                }
                ports.as_ref().map_or(Ok(()), |ports| write!(f, " {ports}"))
            }
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let range = |&(first, last): &(u16, u16)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        };
        let ranges: Vec<_> = self.ranges.iter().map(range).collect();
        write!(f, "{protocol}:{}", ranges.join(","))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

/// What is wrong with an entry.
#[derive(Debug, Error)]
#[error("{text}: {reason}")]
pub struct DestinationError {
    text: String,
    reason: Reason,
}

#[derive(Debug, Error)]
enum Reason {
    #[error("not a network; expected ADDRESS/PREFIX, such as 10.0.0.0/8 or fd00::/8")]
    Net,
    #[error("the address has bits beyond its prefix")]
    HostBits,
    #[error("not ports; expected tcp: or udp: and a list, such as tcp:443,8000-8100")]
    Ports,
    #[error(
        "neither an address nor a name; expected such as 10.0.0.1, example.org or *.example.org"
    )]
    Name,
    #[error("a name is allowed on all ports; leave the ports out")]
    NameWithPorts,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn same(text: &str) {
        let parsed: Destination = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn entries_are_written_as_they_are_read() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.1",
            "::1",
            "fd00::/8 udp:53",
            "0.0.0.0/0 tcp:1-65535,7",
            "a.example",
            "*.a.example",
        ] {
            same(text);
        }
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = text.parse::<Destination>().unwrap_err().to_string();
        assert!(error.starts_with(text) && error.contains(why), "{error}");
    }

    #[test]
    fn refusals_say_why() {
        refused("10.0.0.1/8", "beyond");
        refused("10.0.0.0/33", "not a network");
        refused("10.0.0", "neither");
        refused("10.0.0.256", "neither");
        refused("", "neither");
        refused("*", "neither");
        refused("a..b", "neither");
        refused("10.0.0.0/8 80", "not ports");
        refused("10.0.0.0/8 tcp:0", "not ports");
        refused("10.0.0.0/8 tcp:+1", "not ports");
        refused("10.0.0.0/8 tcp:9-8", "not ports");
        refused("10.0.0.0/8 sctp:80", "not ports");
        refused("a.example tcp:80", "ports");
    }

    #[test]
    fn a_wildcard_is_what_is_below() {
        let name = |text: &str| parse_name(text).unwrap();
        assert!(name("*.a.org").matches("x.y.A.org."));
        assert!(!name("*.a.org").matches("a.org"));
        assert!(!name("*.a.org").matches("ba.org"));
        assert!(!name("*.a.org").matches(".a.org"));
        assert!(name("a.org").matches("A.ORG"));
        assert!(!name("a.org").matches("x.a.org"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,80}") {
            if let Ok(parsed) = text.parse::<Destination>() {
                prop_assert_eq!(parsed.to_string().parse::<Destination>().unwrap(), parsed);
            }
        }
    }
}
