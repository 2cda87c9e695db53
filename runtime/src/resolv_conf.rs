// SPDX-License-Identifier: Apache-2.0
//! A container's /etc/resolv.conf (resolv.conf(5)) where the sandbox's names are relayed: everything that the client
//! wrote but whom to ask.
//!
//! Called by [`crate::host_files`], and by who asks in the sandbox's place.

use std::net::IpAddr;

/// Where it is in a container.
pub(crate) const PATH: &str = "/etc/resolv.conf";

/// Whom the agent listens for.
const RELAY: &str = "nameserver 127.0.0.53\n";

/// Most servers that are asked (`MAXNS` in resolv.h).
const MOST: usize = 3;

/// The servers that it names, in order. One with a zone (`fe80::1%eth0`) is the container's own business.
pub(crate) fn nameservers(text: &[u8]) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(text);
    let named = text.lines().filter_map(server);
    named
        .filter_map(|address| address.parse().ok())
        .take(MOST)
        .collect()
}

/// The same file with the relay in their place.
pub(crate) fn relayed(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let kept = text.lines().filter(|line| server(line).is_none());
    let kept = kept.flat_map(|line| [line, "\n"]);
    std::iter::once(RELAY)
        .chain(kept)
        .collect::<String>()
        .into_bytes()
}

/// What a line names as a server.
fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"# by hand\nsearch a.example b.example\nnameserver 10.0.0.1\n\
        nameserver\tfd00::1 # two\nnameserver fe80::1%eth0\nnameserver\nnameservers 10.0.0.2\noptions ndots:5";

    #[test]
    fn servers_are_replaced_and_the_rest_is_kept() {
        let expect = "nameserver 127.0.0.53\n# by hand\nsearch a.example b.example\n\
            nameservers 10.0.0.2\noptions ndots:5\n";
        assert_eq!(String::from_utf8(relayed(TEXT)).unwrap(), expect);
        assert_eq!(relayed(b""), b"nameserver 127.0.0.53\n");
    }

    #[test]
    fn the_first_three_servers_are_found() {
        let found = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(nameservers(TEXT), found);
        assert_eq!(nameservers(&b"nameserver 10.0.0.1\n".repeat(5)).len(), 3);
        assert!(nameservers(b"\xff\xfe").is_empty());
    }

    proptest! {
        #[test]
        fn only_the_relay_is_left(text in "(nameserver |[a-z0-9.: \t\n])*") {
            let relay: IpAddr = "127.0.0.53".parse().unwrap();
            prop_assert_eq!(nameservers(&relayed(text.as_bytes())), [relay]);
        }
    }
}
