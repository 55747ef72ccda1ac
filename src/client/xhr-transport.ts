import { browser } from './browser.js';
import type { Transport } from './transport.js';

/** Statuses whose responses have no content; `Response` refuses even an empty one for them (Fetch §2.2.3). */
const WITHOUT_CONTENT = [204, 205, 304];

/** Sends requests with XMLHttpRequest, because it reports the progress of a body and `fetch` does not. */
export function xhrTransport({ credentials }: RequestInit): Transport<Blob> {
  return ({ url, method, headers, body, signal, onProgress }) =>
    new Promise((resolve, reject) => {
      const xhr = new browser.XMLHttpRequest!();
      xhr.open(method, url);
      xhr.responseType = 'blob';
      xhr.withCredentials = credentials === 'include';
      headers.forEach((value, name) => xhr.setRequestHeader(name, value));
      xhr.upload.onprogress = ({ loaded }) => onProgress(loaded);
      xhr.onload = () => {
        const { status, statusText } = xhr;
        const content = WITHOUT_CONTENT.includes(status) ? null : (xhr.response as Blob);
        resolve(new Response(content, { status, statusText, headers: receivedHeaders(xhr.getAllResponseHeaders()) }));
      };
      // Also comes after `onload`, when rejecting has no effect any more.
      xhr.onloadend = () => reject(new TypeError('The connection was lost.'));
      signal.addEventListener('abort', () => xhr.abort());
      onProgress(0);
      xhr.send(body);
    });
}

/** The header lines of a response, which XMLHttpRequest gives as one text with one form (XHR §3.6.5). */
function receivedHeaders(text: string): Headers {
  const lines = text.split('\r\n').filter(Boolean);
  return new Headers(lines.map((line) => line.split(/: (.*)/, 2) as [string, string]));
}
