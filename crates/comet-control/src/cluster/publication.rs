//! A push as hosts publish it, for the cores of this one.

use comet_hub::cluster::{Publication, Target};
use comet_wire::goim::protocol::Proto;

/// The target, the operation that a connection must accept, and the frame.
pub(crate) fn taken_apart(publication: Publication) -> (Target, i32, Proto) {
    // A paced push begins in another way.
    let Publication { target, accepts, operation, version, sequence, collapse_id, body, paced: _ } =
        publication;
    let proto = Proto {
        ver: version,
        op: operation,
        seq: sequence,
        body: body.into(),
        collapse_id: collapse_id.into(),
    };
    (target, accepts, proto)
}
