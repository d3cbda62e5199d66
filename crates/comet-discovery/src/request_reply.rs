//! The answers of a node.

use serde::Deserialize;

/// The form of every answer. Other fields are not used here.
#[derive(Deserialize)]
struct Body {
    code: i64,
    #[serde(default)]
    message: String,
}

/// The result of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestReply {
    /// Code 0.
    Done,
    /// Code -404: the node does not know the instance.
    NotFound,
    /// Code -400: a parameter is wrong. A `set` of an instance that the node does not know gets this answer, too.
    BadRequest,
    /// Another code, or no answer: a sentence.
    Failed(String),
}

impl RequestReply {
    /// Reads the body of an answer with HTTP status 200.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(Body { code: 0, .. }) => Self::Done,
            Ok(Body { code: -404, .. }) => Self::NotFound,
            Ok(Body { code: -400, .. }) => Self::BadRequest,
            Ok(Body { code, message }) => Self::Failed(format!("code {code} {message:?}")),
            Err(error) => Self::Failed(format!("an answer that is none of discovery: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_their_code() {
        assert_eq!(RequestReply::read(br#"{"code":0,"message":"0","ttl":1}"#), RequestReply::Done);
        assert_eq!(
            RequestReply::read(br#"{"code":0,"data":{"hostname":"a"}}"#),
            RequestReply::Done
        );
        assert_eq!(
            RequestReply::read(br#"{"code":-404,"message":"-404"}"#),
            RequestReply::NotFound
        );
        assert_eq!(RequestReply::read(br#"{"code":-400}"#), RequestReply::BadRequest);
        let failed = RequestReply::Failed("code -500 \"full\"".to_owned());
        assert_eq!(RequestReply::read(br#"{"code":-500,"message":"full"}"#), failed);
        for body in [&b""[..], b"<html>", b"{}", b"[]", br#"{"code":"0"}"#, b"\xff"] {
            assert!(matches!(RequestReply::read(body), RequestReply::Failed(_)), "{body:?}");
        }
    }
}
