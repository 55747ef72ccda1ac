// Sends requests with fetch, and says what the page may see of the responses.

/** `bytes` is the size of a body that is made here. Gives an error where the browser hides the response. */
window.send = async ({ url, method, headers = {}, body, bytes, credentials = 'omit' }) => {
  try {
    const content = bytes === undefined ? body : new Blob([new Uint8Array(bytes)]);
    const response = await fetch(url, { method, headers, body: content, credentials });
    return { status: response.status, fields: [...response.headers.keys()], body: await response.text() };
  } catch (error) {
    return { error: error.name };
  }
};

window.sendAll = (requests) => Promise.all(requests.map((request) => window.send(request)));
