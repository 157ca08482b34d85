/** The engine's worker: hands the page's messages to an {@link Engine} and its events back. */
import type { EngineEvent, EngineRequest } from "../protocol.ts";
import { Engine } from "./engine.ts";

const scope = self as unknown as {
  postMessage(event: EngineEvent): void;
  onmessage: ((message: MessageEvent<EngineRequest>) => void) | null;
  /** For the console and for tests: `ringwiseEngine.device.destroy()` shows what a lost device looks like. */
  ringwiseEngine: Engine;
};

const engine = new Engine((event) => scope.postMessage(event));
scope.ringwiseEngine = engine;

scope.onmessage = ({ data: request }) => {
  switch (request.type) {
    case "hello":
      return void engine.hello();
    case "run":
      return void engine.run(request.id, request.job);
    case "needle":
      return void engine.needle(request.id, request.job);
    case "stop":
      return engine.stop(request.id);
    default:
      return engine.peer(request);
  }
};
