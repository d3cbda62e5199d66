// Listeners by the name of their event.

/** Events that listeners may cause while one is told, before others get their turn: two listeners may answer each other for ever. */
const CAUSED_MAX = 1000;

export class Emitter<Events> {
    #listeners = new Map<keyof Events, Set<(event: never) => void>>();
    /** What is to be told, in its order: an event that a listener causes comes when all have been told of the one before. */
    readonly #queue: [keyof Events, Events[keyof Events]][] = [];
    #isTelling = false;

    /** Returns what takes the listener away again. */
    on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
        const listeners = this.#listeners.get(name) ?? new Set();
        this.#listeners.set(name, listeners.add(listener));
        return () => void listeners.delete(listener);
    }

    emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
        this.#queue.push([name, event]);
        if (!this.#isTelling) {
            this.#isTelling = true;
            this.#tellAll();
        }
    }

    #tellAll(): void {
        for (let told = 0; told <= CAUSED_MAX; told += 1) {
            const next = this.#queue.shift();
            if (!next) {
                this.#isTelling = false;
                return;
            }
            this.#tell(...next);
        }
        setTimeout(() => this.#tellAll(), 1);
    }

    #tell<Name extends keyof Events>(name: Name, event: Events[Name]): void {
        const listeners = this.#listeners.get(name);
        // Copied: a listener that is added by another one is not told of this event.
        for (const listener of [...(listeners ?? [])]) {
            if (!listeners?.has(listener)) {
                continue;
            }
            try {
                (listener as (event: Events[Name]) => void)(event);
            } catch (error) {
                // A mistake of a listener is reported as uncaught, and disturbs neither others nor the connection.
                queueMicrotask(() => {
                    throw error;
                });
            }
        }
    }
}
