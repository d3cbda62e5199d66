export type { Backoff } from "./backoff.js";
export { Comet, type Events, type GoodbyeEvent, type Options, type State, type StateEvent, type Token } from "./comet.js";
export type { WebSocketConstructor, WebSocketLike } from "./connection.js";
export type { Message, Position } from "./message.js";
export type { GapEvent, RoomEvent } from "./room.js";
export type { Resumed } from "./wire.js";
