//! The head of a request: RFC 9112.

/// Bytes of the longest head, and most fields in it.
pub(super) const LONGEST: usize = 8 << 10;
const MOST_FIELDS: usize = 64;

/// What matters of a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Without a query.
    pub(super) path: String,
    pub(super) keep_alive: bool,
    /// Bytes of the body.
    pub(super) body: u64,
    /// The client waits to be told to send it (RFC 9110 §10.1.1).
    pub(super) expects: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Put,
}

/// A status that ends the connection, and what it is called.
pub(super) type Refusal = (u16, &'static str);

pub(super) const BAD: Refusal = (400, "Bad Request");
pub(super) const TOO_LARGE: Refusal = (431, "Request Header Fields Too Large");

/// Reads a head. `Ok(None)`: it is not whole yet; otherwise how long it is.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(usize, Request)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(BAD),
    };
    let method = match head.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("PUT" | "POST") => Method::Put,
        _ => return Err((405, "Method Not Allowed")),
    };
    let (target, version) = (head.path.unwrap_or(""), head.version.unwrap_or(0));
    if !target.starts_with('/') {
        return Err(BAD);
    }
    let mut request = Request {
        method,
        path: target.split('?').next().unwrap_or("").to_owned(),
        keep_alive: version > 0,
        body: 0,
        expects: false,
    };
    let (mut length, mut hosts) = (None, 0);
    for field in head.headers.iter() {
        let value = std::str::from_utf8(field.value).map_err(|_| BAD)?.trim();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("connection") {
            let has = |what: &str| value.split(',').any(|it| it.trim().eq_ignore_ascii_case(what));
            request.keep_alive = (request.keep_alive || has("keep-alive")) && !has("close");
        } else if is("content-length") {
            // §6.3: one value, in digits alone. Two that differ are an attack.
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse().ok().filter(|_| digits).ok_or(BAD)?;
            if length.replace(number).is_some_and(|other: u64| other != number) {
                return Err(BAD);
            }
        } else if is("transfer-encoding") {
            return Err((411, "Length Required"));
        } else if is("expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err((417, "Expectation Failed"));
            }
            request.expects = version > 0;
        }
    }
    // §3.2: exactly one Host in HTTP/1.1.
    if version > 0 && hosts != 1 {
        return Err(BAD);
    }
    if method == Method::Put && length.is_none() {
        return Err((411, "Length Required"));
    }
    request.body = length.unwrap_or(0);
    Ok(Some((len, request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> u16 {
        parse(text.as_bytes()).unwrap_err().0
    }

    #[test]
    fn heads_are_read_to_their_end() {
        let text = "GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let (len, request) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(&text[len..], "rest");
        let expected =
            Request { method: Method::Get, path: "/a".into(), keep_alive: true, body: 0, expects: false };
        assert_eq!(request, expected);
        for end in 0..len {
            assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn bodies_have_a_length() {
        let put = |fields: &str| format!("PUT / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let (_, request) =
            parse(put("Content-Length: 7\r\nExpect: 100-continue\r\n").as_bytes()).unwrap().unwrap();
        assert_eq!((request.body, request.expects), (7, true));
        assert_eq!(refused(&put("")), 411);
        assert_eq!(refused(&put("Transfer-Encoding: chunked\r\nContent-Length: 7\r\n")), 411);
        for bad in ["+7", "-7", "7,8", "0x7", "", "99999999999999999999"] {
            assert_eq!(refused(&put(&format!("Content-Length: {bad}\r\n"))), 400, "{bad}");
        }
        assert_eq!(refused(&put("Content-Length: 7\r\nContent-Length: 8\r\n")), 400);
        assert_eq!(refused(&put("Expect: more\r\n")), 417);
    }

    #[test]
    fn connections_are_kept_as_asked() {
        for (version, field, keep) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let text = format!("HEAD / HTTP/{version}\r\nHost: x\r\n{field}\r\n");
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().1.keep_alive, keep, "{text}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
        assert_eq!(refused("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
        assert_eq!(refused("\0\r\n\r\n"), 400);
        assert_eq!(refused("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"), 405);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65))), 431);
    }
}
