//! The receipt of JetStream for a message to its stream, as JSON: `{"stream":"comet-history","seq":7}`, or
//! `{"error":{"code":400,"description":"..."}}`.

use serde_json::Value;

/// Longest reason that is passed to callers.
const REASON_MAX: usize = 256;

/// `None`: it is not a receipt. `Err`: why the stream does not take the message.
pub(crate) fn decode(receipt: &Value) -> Option<Result<(), String>> {
    if let Some(error) = receipt.get("error") {
        let reason =
            error.get("description").and_then(Value::as_str).unwrap_or("it says no reason");
        return Some(Err(reason[..reason.floor_char_boundary(REASON_MAX)].to_owned()));
    }
    receipt.get("stream")?.as_str()?;
    receipt.get("seq")?.as_u64().map(|_| Ok(()))
}

#[cfg(test)]
mod tests {
    fn decode(json: &[u8]) -> Option<Result<(), String>> {
        super::decode(&serde_json::from_slice(json).unwrap())
    }

    #[test]
    fn a_receipt_shows_whether_the_stream_has_the_message() {
        assert_eq!(decode(br#"{"stream":"s","seq":7}"#), Some(Ok(())));
        let refused = br#"{"error":{"code":503,"description":"no space"},"stream":"s","seq":0}"#;
        assert_eq!(decode(refused), Some(Err("no space".to_owned())));
        assert_eq!(decode(br#"{"error":{}}"#), Some(Err("it says no reason".to_owned())));
        for other in ["{}", r#"{"host":"a","matched":1}"#, r#"{"stream":7,"seq":1}"#] {
            assert_eq!(decode(other.as_bytes()), None, "{other}");
        }
    }
}
