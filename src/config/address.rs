//! Addresses to bind and URLs of backends, from text.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use super::Address;

const SCHEMES: &str = "must begin with redis://, rediss:// or unix://";
const PORT_DEFAULT: u16 = 6379;
/// The kernel's `sun_path` holds 108 bytes with the closing zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// A backend's URL, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BackendUrl {
    pub(super) address: Option<Address>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<u32>,
    /// With TLS.
    pub(super) is_secure: bool,
}

/// Reads `host:port`, `[::1]:port` or `unix:///path`; port 0 lets the kernel choose.
pub(super) fn parse_bind(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        return unix_path(path).map(Address::Unix);
    }
    if text.contains("://") {
        return Err("must be host:port, [::1]:port or unix:///path".to_owned());
    }
    match host_port(text)? {
        (host, Some(port)) => Ok(Address::Tcp(host, port)),
        (_, None) => Err("the port is missing".to_owned()),
    }
}

/// Reads `redis://user:password@host:port/database`, the same with `rediss://`, or `unix://user:password@/path?db=database`.
pub(super) fn parse_backend_url(text: &str) -> Result<BackendUrl, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(SCHEMES.to_owned());
    };
    match scheme {
        "redis" => redis_url(rest),
        "unix" => unix_url(rest),
        "rediss" => redis_url(rest).map(|url| BackendUrl { is_secure: true, ..url }),
        "redis+cluster" | "rediss+cluster" => Err("clusters (redis+cluster://) are not supported yet".to_owned()),
        "redis+sentinel" | "rediss+sentinel" => Err("sentinels (redis+sentinel://) are not supported yet".to_owned()),
        _ => Err(SCHEMES.to_owned()),
    }
}

/// What a `health_check_url` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HealthCheckUrl {
    /// Where commands ask.
    Commands(BackendUrl),
    /// Host and port of the REST API that the lag check asks.
    Rest(String, Option<u16>),
}

/// Reads the address of a health check: a backend's URL with nothing but an address in it, or `https://host:port`.
pub(super) fn parse_health_check_url(text: &str) -> Result<HealthCheckUrl, String> {
    if text.starts_with("http://") {
        return Err("must begin with https://, since a password goes there".to_owned());
    }
    if let Some(rest) = text.strip_prefix("https://") {
        let place = rest.strip_suffix('/').unwrap_or(rest);
        if place.contains(['/', '?', '#', '@']) {
            return Err("takes only an address, https://host:port; the paths are those of the REST API".to_owned());
        }
        return match host_port(place)? {
            (_, Some(0)) => Err("the port must be between 1 and 65535".to_owned()),
            (host, port) => Ok(HealthCheckUrl::Rest(host, port)),
        };
    }
    match parse_backend_url(text)? {
        url @ BackendUrl { address: Some(_), username: None, password: None, database: None, .. } => {
            Ok(HealthCheckUrl::Commands(url))
        }
        _ => Err("takes only an address; user, password and database are the backend's own".to_owned()),
    }
}

/// Whether only this machine reaches it.
pub(super) fn is_local(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp(host, _) => host == "localhost" || ip(host).is_some_and(|ip| ip.is_loopback()),
    }
}

/// Whether binding both must fail.
pub(super) fn clash(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(one_host, one_port), Address::Tcp(other_host, other_port)) => {
            *one_port != 0 && one_port == other_port && hosts_clash(one_host, other_host)
        }
        _ => false,
    }
}

/// Masks whatever may be a password in a URL, even in one that is malformed.
pub(super) fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}"),
        None => text.to_owned(),
    }
}

fn hosts_clash(one: &str, other: &str) -> bool {
    match (ip(one), ip(other)) {
        (Some(one), Some(other)) => {
            one == other || (one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified()))
        }
        _ => one == other,
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn redis_url(rest: &str) -> Result<BackendUrl, String> {
    let (before, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let (authority, path) = before.split_once('/').map_or((before, ""), |(authority, path)| (authority, path));
    if rest[authority.len()..].contains('@') {
        return Err("a / or ? in the user or password is written %2F or %3F".to_owned());
    }
    let (login, place) = split_login(authority);
    let (host, port) = host_port(place)?;
    let port = port.unwrap_or(PORT_DEFAULT);
    if port == 0 {
        return Err("the port must be between 1 and 65535".to_owned());
    }
    let (username, password) = login.map_or(Ok((None, None)), user_and_password)?;
    let in_path = if path.is_empty() { None } else { Some(database(path)?) };
    let in_query = query.map(database_of_query).transpose()?;
    if in_path.is_some() && in_query.is_some() {
        return Err("names the database twice".to_owned());
    }
    Ok(BackendUrl {
        address: Some(Address::Tcp(host, port)),
        username,
        password,
        database: in_path.or(in_query),
        is_secure: false,
    })
}

fn unix_url(rest: &str) -> Result<BackendUrl, String> {
    let (before, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let (login, path) = match before.find('/') {
        Some(0) => (None, before),
        _ => split_login(before),
    };
    let (username, password) = login.map_or(Ok((None, None)), user_and_password)?;
    let database = query.map(database_of_query).transpose()?;
    Ok(BackendUrl { address: Some(Address::Unix(unix_path(path)?)), username, password, database, is_secure: false })
}

fn split_login(text: &str) -> (Option<&str>, &str) {
    text.rsplit_once('@').map_or((None, text), |(login, place)| (Some(login), place))
}

fn user_and_password(login: &str) -> Result<(Option<String>, Option<String>), String> {
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let user = if user.is_empty() { None } else { Some(percent_decoded(user)?) };
    Ok((user, password.map(percent_decoded).transpose()?))
}

fn database(text: &str) -> Result<u32, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or_else(|| "the database after the / must be a number".to_owned())
}

fn database_of_query(query: &str) -> Result<u32, String> {
    match query.strip_prefix("db=") {
        Some(number) => database(number).map_err(|_| "the database after db= must be a number".to_owned()),
        None => Err("only db= may follow the ?".to_owned()),
    }
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') {
        return Err("the path of a Unix socket must be absolute: unix:///path".to_owned());
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(format!("the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes"));
    }
    Ok(PathBuf::from(path))
}

/// The host, an IPv6 literal without its brackets, and the port if there is one.
pub(super) fn host_port(text: &str) -> Result<(String, Option<u16>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (literal, after) = rest.split_once(']').ok_or("the ] after the IPv6 address is missing")?;
        let literal: Ipv6Addr = literal.parse().map_err(|_| format!("\"{literal}\" is not an IPv6 address"))?;
        return Ok((literal.to_string(), port_after(after)?));
    }
    if text.matches(':').count() > 1 {
        return Err("an IPv6 address needs brackets: [::1]:6379".to_owned());
    }
    let (host, after) = text.find(':').map_or((text, ""), |colon| text.split_at(colon));
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(format!("\"{host}\" is not a host name"));
    }
    Ok((host.to_owned(), port_after(after)?))
}

fn port_after(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok());
    port.map(Some).ok_or_else(|| "the port must be a number up to 65535".to_owned())
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let wrong =
        || "a % in the user or password must be followed by two hex digits of UTF-8 (% itself is %25)".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(wrong()) };
        bytes.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16) -> Option<Address> {
        Some(Address::Tcp(host.to_owned(), port))
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn urls_that_are_accepted() {
        let unix = Some(Address::Unix(PathBuf::from("/run/redis.sock")));
        for (url, address, username, password, database) in [
            ("redis://host", tcp("host", 6379), None, None, None),
            ("redis://host:7001/", tcp("host", 7001), None, None, None),
            ("redis://host/5", tcp("host", 6379), None, None, Some(5)),
            ("redis://host?db=5", tcp("host", 6379), None, None, Some(5)),
            ("redis://[::1]:7001/2", tcp("::1", 7001), None, None, Some(2)),
            ("redis://[2001:db8:0::1]", tcp("2001:db8::1", 6379), None, None, None),
            ("redis://:secret@host", tcp("host", 6379), None, text("secret"), None),
            ("redis://app:a%40b%3a%25%2F@host:1", tcp("host", 1), text("app"), text("a@b:%/"), None),
            ("redis://app:p@ss@host:1", tcp("host", 1), text("app"), text("p@ss"), None),
            ("redis://app@host:1", tcp("host", 1), text("app"), None, None),
            ("unix:///run/redis.sock", unix.clone(), None, None, None),
            ("unix:///run/redis.sock?db=3", unix.clone(), None, None, Some(3)),
            ("unix://app:pw@/run/redis.sock", unix, text("app"), text("pw"), None),
        ] {
            let expected = BackendUrl { address, username, password, database, is_secure: false };
            assert_eq!(parse_backend_url(url), Ok(expected.clone()), "{url}");
            if let Some(rest) = url.strip_prefix("redis://") {
                let expected = BackendUrl { is_secure: true, ..expected };
                assert_eq!(parse_backend_url(&format!("rediss://{rest}")), Ok(expected), "rediss://{rest}");
            }
        }
    }

    #[test]
    fn urls_that_are_refused() {
        for (url, expected) in [
            ("host:6379", "must begin with redis://, rediss:// or unix://"),
            ("http://host", "must begin with redis://, rediss:// or unix://"),
            ("redis+cluster://host", "clusters (redis+cluster://) are not supported yet"),
            ("redis+sentinel://host/main", "sentinels (redis+sentinel://) are not supported yet"),
            ("redis://", "the host is missing"),
            ("redis://:6379", "the host is missing"),
            ("redis://host:0", "the port must be between 1 and 65535"),
            ("redis://host:65536", "the port must be a number up to 65535"),
            ("redis://host:", "the port must be a number up to 65535"),
            ("redis://host:+1", "the port must be a number up to 65535"),
            ("redis://ho st", "\"ho st\" is not a host name"),
            ("redis://::1:6379", "an IPv6 address needs brackets: [::1]:6379"),
            ("redis://[::1", "the ] after the IPv6 address is missing"),
            ("redis://[::x]", "\"::x\" is not an IPv6 address"),
            ("redis://host/zero", "the database after the / must be a number"),
            ("redis://host/-1", "the database after the / must be a number"),
            ("redis://host/1?db=2", "names the database twice"),
            ("redis://host?ssl=1", "only db= may follow the ?"),
            ("redis://u:a/b@host", "a / or ? in the user or password is written %2F or %3F"),
            (
                "redis://u:%zz@host",
                "a % in the user or password must be followed by two hex digits of UTF-8 (% itself is %25)",
            ),
            ("unix://run/redis.sock", "the path of a Unix socket must be absolute: unix:///path"),
        ] {
            assert_eq!(parse_backend_url(url), Err(expected.to_owned()), "{url}");
        }
    }

    #[test]
    fn addresses_to_bind() {
        for (bind, expected) in [
            ("127.0.0.1:6379", tcp("127.0.0.1", 6379)),
            ("[::1]:0", tcp("::1", 0)),
            ("localhost:1", tcp("localhost", 1)),
            ("unix:///run/h.sock", Some(Address::Unix(PathBuf::from("/run/h.sock")))),
        ] {
            assert_eq!(parse_bind(bind).ok(), expected, "{bind}");
        }
        for (bind, expected) in [
            ("127.0.0.1", "the port is missing"),
            (":6379", "the host is missing"),
            ("*:6379", "\"*\" is not a host name"),
            ("::1:6379", "an IPv6 address needs brackets: [::1]:6379"),
            ("redis://127.0.0.1:6379", "must be host:port, [::1]:port or unix:///path"),
            ("unix://relative", "the path of a Unix socket must be absolute: unix:///path"),
        ] {
            assert_eq!(parse_bind(bind), Err(expected.to_owned()), "{bind}");
        }
        let long = format!("unix:///{}", "x".repeat(107));
        assert_eq!(parse_bind(&long), Err("the path of a Unix socket has at most 107 bytes".to_owned()));
    }

    #[test]
    fn which_addresses_are_local() {
        for (bind, expected) in [
            ("127.0.0.1:1", true),
            ("127.8.8.8:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("localhost:1", true),
            ("unix:///s", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("example.org:1", false),
        ] {
            assert_eq!(is_local(&parse_bind(bind).unwrap()), expected, "{bind}");
        }
    }

    #[test]
    fn which_addresses_clash() {
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[0:0::1]:1", "[::1]:1", true),
            ("unix:///a", "unix:///a", true),
            ("unix:///a", "unix:///b", false),
            ("unix:///a", "127.0.0.1:1", false),
        ] {
            let clashes = clash(&parse_bind(one).unwrap(), &parse_bind(other).unwrap());
            assert_eq!(clashes, expected, "{one} and {other}");
        }
    }

    #[test]
    fn passwords_are_masked() {
        assert_eq!(without_password("redis://u:p/q@host:1/0"), "redis://***@host:1/0");
        assert_eq!(without_password("nonsense://a@b@c"), "nonsense://***@c");
        assert_eq!(without_password("redis://host"), "redis://host");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(redis://|unix://)?[a-z0-9:/@%?\\[\\]=.é]{0,40}") {
            let _ = parse_backend_url(&text);
            let _ = parse_bind(&text);
        }

        #[test]
        fn a_percent_encoded_password_is_read_back(password in "\\PC{1,20}") {
            let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let url = parse_backend_url(&format!("redis://:{encoded}@host")).unwrap();
            prop_assert_eq!(url.password, Some(password));
        }
    }
}
