import { MessageChannel } from 'node:worker_threads';

/** Smaller buffers are left to the garbage collector: releasing one costs about a microsecond. */
const MIN_BYTES = 16 * 1024;

/** `ArrayBuffer.prototype.transfer`, since Node 21. */
type Transferable = ArrayBuffer & { readonly transfer?: (newLength: number) => ArrayBuffer };

/**
 * Returns the memory of buffers that nobody uses any more; afterwards they are empty. V8 counts the memory of buffers
 * only when it collects garbage, so a large body that arrives in new buffers makes it run a full collection every few
 * megabytes, which costs more than everything else together. A buffer that shares its memory with others is left alone.
 */
export function releaseMemory(buffers: readonly Uint8Array[]): void {
  for (const { buffer, byteLength } of buffers)
    if (byteLength >= MIN_BYTES && byteLength === buffer.byteLength && buffer instanceof ArrayBuffer) free(buffer);
}

/**
 * A callback for `write` of a socket that releases the written buffer. After an error the socket may not have finished with
 * it, so it is left to the garbage collector.
 */
export function releaseWhenWritten(bytes: Uint8Array): (error?: Error | null) => void {
  return (error) => {
    if (!error) releaseMemory([bytes]);
  };
}

const free: (memory: ArrayBuffer) => void = 'transfer' in ArrayBuffer.prototype ? freeByTransfer : freeByMessage();

function freeByTransfer(memory: Transferable): void {
  memory.transfer!(0);
}

/** Node 20 has no `transfer`: a message to a closed port takes the memory along and is dropped at once. */
function freeByMessage(): (memory: ArrayBuffer) => void {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  return (memory) => port1.postMessage(undefined, [memory]);
}
