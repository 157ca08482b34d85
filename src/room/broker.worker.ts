/**
 * The broker: a SharedWorker that all tabs of one browser (and origin) share. It introduces the tabs of one room to each other
 * by handing both ends of two MessageChannels to each pair, one for the proof and the farewell, one for the engine. It neither
 * sees what goes over them nor holds any secret.
 */
import { createBroker } from "./broker.ts";

const scope = globalThis as unknown as { onconnect: ((event: MessageEvent) => void) | null; navigator: Navigator };
const broker = createBroker(scope.navigator.locks);
scope.onconnect = ({ ports }) => broker.connect(ports[0]!);
