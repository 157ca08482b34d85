/**
 * Knows every connection that trystero makes: its doors, the offers it keeps in reserve, what it would keep for minutes after
 * leaving. So they can be closed at once, and what comes in over a door stays within bounds.
 */

/** `RTCPeerConnection`, the browser's or one that is like it. */
export type ConnectionConstructor = new (configuration?: RTCConfiguration) => RTCPeerConnection;

/**
 * A door carries the proof and, now and then, the session descriptions of its peer's lanes: a few dozen KB. trystero itself
 * sets no bound to what it collects, so one that sends more than this is closed.
 */
const MAX_DOOR_BYTES = 8 * 1024 * 1024;

/** A class of connections that are all known. */
export interface TrackedConnections {
  Connection: typeof RTCPeerConnection;
  /** Open ones: for tests of what is left over. */
  readonly openCount: number;
  closeAll(): void;
}

/** @param Base The class to track. */
export function trackConnections(Base: ConnectionConstructor): TrackedConnections {
  const open = new Set<RTCPeerConnection>();

  function watch(connection: RTCPeerConnection, channel: RTCDataChannel): void {
    let byteLength = 0;
    channel.addEventListener("message", ({ data }: MessageEvent) => {
      byteLength += typeof data === "string" ? data.length : ((data as ArrayBuffer).byteLength ?? 0);
      if (byteLength <= MAX_DOOR_BYTES) return;
      connection.close();
      connection.dispatchEvent(new Event("connectionstatechange"));
    });
  }

  class TrackedConnection extends Base {
    constructor(configuration?: RTCConfiguration) {
      super(configuration);
      open.add(this);
      this.addEventListener("connectionstatechange", () => {
        if (this.connectionState === "closed") open.delete(this);
      });
      this.addEventListener("datachannel", ({ channel }) => watch(this, channel));
    }
    override createDataChannel(label: string, init?: RTCDataChannelInit): RTCDataChannel {
      const channel = super.createDataChannel(label, init);
      watch(this, channel);
      return channel;
    }
    override close(): void {
      open.delete(this);
      super.close();
    }
  }

  return {
    Connection: TrackedConnection as unknown as typeof RTCPeerConnection,
    get openCount() {
      return open.size;
    },
    closeAll() {
      for (const connection of [...open]) connection.close();
    },
  };
}
