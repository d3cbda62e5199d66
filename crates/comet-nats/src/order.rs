//! Orders to all hosts, as JSON: `{"order":"kick","keys":["a"],"reason":"","retry_after_ms":0}`, or
//! `{"order":"join","users":[1],"rooms":["r"]}`, or `leave`. The target is one of `keys`, `users`, `room` and `network`.
//! `{"order":"cancel","broadcast":"a.1790000000000.7"}` ends a paced broadcast. It has no target, and neither have
//! [questions](crate::question).

use comet_hub::cluster::{Action, Order, OrderTarget};
use serde_json::{Value, json};

use crate::question;

pub(crate) fn encode(order: &Order) -> Vec<u8> {
    let (target, action) = match order {
        Order::Change { target, action } => (target, action),
        Order::Tell(question) => return question::encode(question).to_string().into_bytes(),
        Order::CancelBroadcast { name } => {
            return json!({ "order": "cancel", "broadcast": &**name }).to_string().into_bytes();
        }
    };
    let mut value = match action {
        Action::Kick { reason, retry_after_ms } => {
            json!({ "order": "kick", "reason": reason, "retry_after_ms": retry_after_ms })
        }
        Action::ChangeRooms { rooms, is_join } => {
            json!({ "order": if *is_join { "join" } else { "leave" }, "rooms": rooms })
        }
    };
    let (name, target) = match target {
        OrderTarget::Room(room) => ("room", json!(room)),
        OrderTarget::Keys(keys) => ("keys", json!(keys)),
        OrderTarget::Users(users) => ("users", json!(users)),
        OrderTarget::Network(network) => ("network", json!(network)),
    };
    value[name] = target;
    value.to_string().into_bytes()
}

/// `None`: it is not an order.
pub(crate) fn decode(text: &[u8]) -> Option<Order> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let texts = |name: &str| -> Option<Vec<String>> {
        value.get(name)?.as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let action = match value.get("order")?.as_str()? {
        "kick" => Action::Kick {
            reason: text("reason")?,
            retry_after_ms: value.get("retry_after_ms")?.as_u64()?.try_into().ok()?,
        },
        word @ ("join" | "leave") => {
            Action::ChangeRooms { rooms: texts("rooms")?, is_join: word == "join" }
        }
        "cancel" => {
            let name = value.get("broadcast")?.as_str()?.into();
            return Some(Order::CancelBroadcast { name });
        }
        word => return question::decode(word, &value).map(Order::Tell),
    };
    let target = if let Some(keys) = texts("keys") {
        OrderTarget::Keys(keys)
    } else if let Some(users) = value.get("users") {
        let users = users.as_array()?.iter().map(Value::as_i64).collect::<Option<_>>()?;
        OrderTarget::Users(users)
    } else if let Some(room) = text("room") {
        OrderTarget::Room(room.into())
    } else {
        OrderTarget::Network(text("network")?.into())
    };
    Some(Order::Change { target, action })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_back_from_its_json() {
        let kick = Action::Kick { reason: "\"ä\"".to_owned(), retry_after_ms: u32::MAX };
        let change = |is_join| Action::ChangeRooms { rooms: vec!["r".to_owned()], is_join };
        for action in [kick, change(true), change(false)] {
            for target in [
                OrderTarget::Room("live://7".into()),
                OrderTarget::Keys(vec!["a,b".to_owned()]),
                OrderTarget::Users(vec![i64::MAX, -2]),
                OrderTarget::Network("192.0.2.0/24".into()),
            ] {
                let order = Order::Change { target, action: action.clone() };
                assert_eq!(decode(&encode(&order)), Some(order));
            }
        }
        let cancel = Order::CancelBroadcast { name: "ä.1.\"".into() };
        assert_eq!(decode(&encode(&cancel)), Some(cancel));
        for bad in [
            r#"{"order":"cancel"}"#,
            r#"{"order":"cancel","broadcast":7}"#,
            r#"{"order":"count"}"#,
            "",
            "[]",
            r#"{"order":"kick","reason":"","retry_after_ms":0}"#,
            r#"{"order":"kick","reason":"","retry_after_ms":-1,"room":"r"}"#,
            r#"{"order":"join","room":"r"}"#,
            r#"{"order":"dance","rooms":[],"room":"r"}"#,
        ] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
