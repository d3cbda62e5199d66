//! Where the calls of the HTTP API end: at the shards of this process, or, in `comet logic`, at the
//! comets it serves.

use std::sync::Arc;

use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::logic_server::Comets;
use crate::pushes::{Bounds, Pushes};

pub(crate) enum Reach {
    Shards(Arc<Pushes>),
    Comets(Arc<Comets>),
}

/// What became of a push.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    pub(crate) ledger: Ledger,
    /// Servers it did not reach.
    pub(crate) failed: Vec<Failure>,
}

/// A server that did not take a push.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) server: String,
    pub(crate) message: String,
}

impl From<Ledger> for Pushed {
    fn from(ledger: Ledger) -> Self {
        Self { ledger, failed: Vec::new() }
    }
}

impl Reach {
    /// What one call may ask for.
    pub(crate) fn bounds(&self) -> Bounds {
        match self {
            Self::Shards(pushes) => pushes.bounds(),
            Self::Comets(comets) => comets.bounds(),
        }
    }

    /// To the connections that hold `keys`.
    pub(crate) async fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Pushed, Status> {
        match self {
            Self::Shards(pushes) => Ok(pushes.to_keys(keys, proto, operation).await?.into()),
            Self::Comets(comets) => comets.to_keys(keys, proto, operation).await,
        }
    }

    /// To every session of `users`.
    pub(crate) async fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Pushed, Status> {
        match self {
            Self::Shards(pushes) => Ok(pushes.to_users(users, proto, operation).await?.into()),
            Self::Comets(comets) => comets.to_users(users, proto, operation).await,
        }
    }

    /// To the members of `room`.
    pub(crate) async fn to_room(
        &self,
        room: String,
        proto: Option<Proto>,
    ) -> Result<Pushed, Status> {
        match self {
            Self::Shards(pushes) => Ok(pushes.to_room(room, proto).await?.into()),
            Self::Comets(comets) => comets.to_room(room, proto).await,
        }
    }

    /// To every connection: at once, or `speed` connections a second.
    pub(crate) async fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> Result<Pushed, Status> {
        match self {
            Self::Shards(pushes) => Ok(pushes.to_all(proto, operation, speed).await?.into()),
            Self::Comets(comets) => comets.to_all(proto, operation, speed).await,
        }
    }

    /// The rooms with someone online, and how many.
    pub(crate) async fn rooms(&self) -> Result<Vec<(Arc<str>, u32)>, Status> {
        match self {
            Self::Shards(pushes) => pushes.rooms().await,
            Self::Comets(comets) => comets.rooms().await,
        }
    }

    /// How many connections are authenticated.
    pub(crate) async fn live(&self) -> Result<u64, Status> {
        match self {
            Self::Shards(pushes) => pushes.live().await,
            Self::Comets(comets) => comets.live().await,
        }
    }
}
