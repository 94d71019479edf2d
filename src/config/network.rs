//! Networks, as they are written: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many bits of an address tell that it is in the network; at most 32 or 128.
    prefix_bits: u32,
}

impl Network {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differs = network.to_bits() ^ address.to_bits();
                differs.checked_shr(u32::BITS - self.prefix_bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differs = network.to_bits() ^ address.to_bits();
                differs.checked_shr(u128::BITS - self.prefix_bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr =
            address.parse().map_err(|_| "must be an IP address or a network such as 10.0.0.0/8".to_owned())?;
        let bits_max = if address.is_ipv4() { u32::BITS } else { u128::BITS };
        let prefix_bits = prefix.map_or(Some(bits_max), |prefix| prefix.parse().ok().filter(|bits| *bits <= bits_max));
        match prefix_bits {
            Some(prefix_bits) => Ok(Self { address, prefix_bits }),
            None => Err(format!("the number after the / must be at most {bits_max}")),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/31", "10.1.2.2", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "2001:db8::1", true),
            ("::1", "::1", true),
            ("::1", "::2", false),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} and {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for (text, expected) in [
            ("ten/8", "must be an IP address or a network such as 10.0.0.0/8"),
            ("10.0.0.0/33", "the number after the / must be at most 32"),
            ("::/129", "the number after the / must be at most 128"),
            ("10.0.0.0/", "the number after the / must be at most 32"),
        ] {
            assert_eq!(text.parse::<Network>(), Err(expected.to_owned()));
        }
    }
}
