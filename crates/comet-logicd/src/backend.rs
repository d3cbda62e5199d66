//! The comets as what takes the pushes of the HTTP API, and as where clients connect.

use std::sync::Arc;

use comet_push::{Bounds, Instance, NodeList, PushBackend, Pushed};
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::comets::Comets;
use crate::nodes;

impl PushBackend for Comets {
    fn bounds(&self) -> Bounds {
        Self::bounds(self)
    }

    async fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Pushed, Status> {
        Self::to_keys(self, keys, proto, operation).await
    }

    async fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Pushed, Status> {
        Self::to_users(self, users, proto, operation).await
    }

    async fn to_room(&self, room: String, proto: Option<Proto>) -> Result<Pushed, Status> {
        Self::to_room(self, room, proto).await
    }

    async fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> Result<Pushed, Status> {
        Self::to_all(self, proto, operation, speed).await
    }

    async fn rooms(&self) -> Result<Vec<(Arc<str>, u32)>, Status> {
        Self::rooms(self).await
    }

    async fn live(&self) -> Result<u64, Status> {
        Self::live(self).await
    }
}

/// The comets, and the domain that clients are told while none takes them.
pub(crate) struct Hosts {
    pub(crate) comets: Arc<Comets>,
    pub(crate) domain: String,
}

impl NodeList for Hosts {
    async fn hosts(&self) -> Result<Vec<String>, Status> {
        nodes::hosts(&self.comets, &self.domain).await
    }

    async fn instances(&self) -> Result<Vec<Instance>, Status> {
        nodes::instances(&self.comets).await
    }
}
