//! The trace that a request belongs to, as its caller says (W3C Trace Context, level 1).

use std::future::Future;
use std::time::Instant;

use hyper::HeaderMap;

tokio::task_local! {
    static TRACED: TracedRequest;
}

/// The header that names the caller's span.
const HEADER: &str = "traceparent";

/// The span of the caller, the parent of the spans of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    /// Id of the trace; never zero.
    pub trace: u128,
    /// Id of the caller's span; never zero.
    pub span: u64,
}

/// A request whose spans are wanted.
#[derive(Clone, Debug)]
pub struct TracedRequest {
    /// The caller's span.
    pub parent: TraceParent,
    /// The path of the request.
    pub path: Box<str>,
    /// When its head had arrived.
    pub begin: Instant,
}

impl TraceParent {
    /// The caller's span, if the caller records its trace. `None` as well if the header occurs twice or is not valid.
    fn sampled(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::read(value.as_bytes())
    }

    /// `VERSION-TRACE-PARENT-FLAGS` in lower-case hex. A version after 00 may have more behind another dash; ff is no
    /// version (section 3.2).
    fn read(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(55)?;
        let dashes = [head[2], head[35], head[52]];
        let version = hex(&head[..2])?;
        if dashes != *b"---" || version == 0xff || rest.first().is_some_and(|byte| *byte != b'-') {
            return None;
        }
        if version == 0 && !rest.is_empty() {
            return None;
        }
        let (trace, span) = (hex(&head[3..35])?, hex(&head[36..52])?);
        let is_sampled = hex(&head[53..])? & 1 == 1;
        let span = u64::try_from(span).expect("16 digits");
        (is_sampled && trace != 0 && span != 0).then_some(Self { trace, span })
    }
}

fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

impl TracedRequest {
    /// Reads the head of a request.
    pub(crate) fn of(path: &str, headers: &HeaderMap) -> Option<Self> {
        let parent = TraceParent::sampled(headers)?;
        #[allow(clippy::disallowed_methods, reason = "a span says when it began")]
        let begin = Instant::now();
        Some(Self { parent, path: path.into(), begin })
    }

    /// The request that is being handled, if it is traced.
    #[must_use]
    pub fn current() -> Option<Self> {
        TRACED.try_with(Clone::clone).ok()
    }

    /// Makes this one the current one while the future is polled.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        TRACED.scope(self, future)
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(value: &str) -> Option<TraceParent> {
        TraceParent::read(value.as_bytes())
    }

    #[test]
    fn a_sampled_header_names_the_parent() {
        let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        let parent = TraceParent { trace, span: 0x00f0_67aa_0ba9_02b7 };
        for good in [
            GOOD.to_owned(),
            GOOD.replace("-01", "-ff"),
            GOOD.replacen("00", "01", 1),
            format!("{}-more", GOOD.replacen("00", "cc", 1)),
        ] {
            assert_eq!(read(&good), Some(parent), "{good}");
        }
    }

    #[test]
    fn other_headers_are_ignored() {
        for bad in [
            String::new(),
            GOOD.replace("-01", "-00"),
            GOOD.replace("-01", "-02"),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0g", 1),
            GOOD.to_uppercase(),
            GOOD.replacen('-', "_", 1),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            format!("{GOOD} "),
            format!("{}0", GOOD.replacen("00", "01", 1)),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("4bf9", "+bf9"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_header_that_is_there_twice_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(HEADER, HeaderValue::from_static(GOOD));
        assert!(TraceParent::sampled(&headers).is_some());
        headers.append(HEADER, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::sampled(&headers), None);
    }
}
