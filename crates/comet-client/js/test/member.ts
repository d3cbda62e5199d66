// A client that is in a room with a history, and what tests of rooms read of it.

import type { TestContext } from "node:test";
import * as wire from "../src/wire.js";
import { type FakeSocket, type Rig, accept, joinReply, rig, socket } from "./fake.js";

const { op } = wire;

/** Flags of operations 19 and 22. */
export const HISTORY = 1;
export const RECOVERED = 2;
export const UNASKED = 4;
export const PRIMARY = 8;

/** What the client has told since the last call, without its states. */
export const told = (log: Rig["log"]): Rig["log"] => log.splice(0).filter(([name]) => name !== "state");

/** The joins among what was sent since the last call. */
export const joins = (socket: FakeSocket): wire.Frame[] => socket.sent.splice(0).filter((sent) => sent.operation === op.JOIN);

interface Member extends Rig {
    connection: FakeSocket;
    /** The connection ends, and there is the next one. */
    back(): FakeSocket;
}

/** A client that is in `room` at this offset of epoch 9, by the handle 1. What it was told and has sent is taken. */
export function member(t: TestContext, { room = "r", offset = 3n, byServer = false } = {}): Member {
    const client = rig(t);
    if (!byServer) {
        client.comet.join(room);
    }
    const connection = accept();
    const flags = HISTORY | (byServer ? UNASKED : 0);
    connection.say([op.JOIN_REPLY, joinReply(room, { flags, epoch: 9n, offset, handle: 1 })]);
    told(client.log);
    connection.taken();
    const back = () => {
        socket().end();
        client.tick(60_000);
        told(client.log);
        return accept();
    };
    return { ...client, connection, back };
}
