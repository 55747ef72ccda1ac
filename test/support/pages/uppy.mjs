// Uppy with its dashboard, which says how the upload of one file ended.
import Uppy from '@uppy/core';
import Dashboard from '@uppy/dashboard';
import Tus from '@uppy/tus';

const { endpoint, chunkSize } = Object.fromEntries(new URLSearchParams(location.search));
const { promise, resolve } = Promise.withResolvers();
window.ended = () => promise;

const uppy = new Uppy().use(Dashboard, { inline: true, target: '#uploads' }).use(Tus, {
  endpoint,
  withCredentials: true,
  chunkSize: Number(chunkSize),
  retryDelays: Array(50).fill(20),
});
uppy.on('upload-success', (file, { body }) => resolve({ status: body.xhr.status, body: body.xhr.responseText }));
uppy.on('upload-error', (file, error) => {
  const response = error.originalResponse;
  resolve(response ? { status: response.getStatus(), body: response.getBody() } : { error: `${error}` });
});
