// SPDX-License-Identifier: Apache-2.0
//! A name server as an operator writes it: `10.0.0.53`, `10.0.0.53:5353`, `fd00::53` or `[fd00::53]:5353`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Of DNS (RFC 1035, section 4.2).
pub(super) const PORT: u16 = 53;

/// Where names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer(SocketAddr);

/// A text that is none.
#[derive(Debug, Error)]
#[error("{0:?} is not a name server; expected ADDRESS or ADDRESS:PORT")]
pub struct NameServerError(String);

impl NameServer {
    /// Its address.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for NameServer {
    type Err = NameServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let with_port = text.parse::<SocketAddr>().ok();
        let alone = text.parse::<IpAddr>().ok();
        let address = with_port.or(alone.map(|ip| (ip, PORT).into()));
        let usable = address.filter(|address| address.port() > 0);
        usable.map(Self).ok_or_else(|| NameServerError(text.into()))
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for NameServer {
    type Error = NameServerError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_left_out() {
        for (text, expect) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("fd00::53", "[fd00::53]:53"),
            ("[fd00::53]:5353", "[fd00::53]:5353"),
        ] {
            assert_eq!(text.parse::<NameServer>().unwrap().to_string(), expect);
        }
        for text in [
            "",
            "dns.example",
            "10.0.0.53:",
            "10.0.0.53:0",
            "10.0.0.53:65536",
        ] {
            let error = text.parse::<NameServer>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
