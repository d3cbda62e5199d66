// What these tests need of the package ws, which has no declarations of its own.
declare module "ws" {
    export const WebSocket: import("../src/connection.js").WebSocketConstructor;
}
