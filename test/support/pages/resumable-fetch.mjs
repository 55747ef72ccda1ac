// Sends the chosen file with our own client when the button is pressed, and says how it ended.
import { resumableFetch } from '/resumable-fetch.min.js';

const { endpoint } = Object.fromEntries(new URLSearchParams(location.search));
const { promise, resolve } = Promise.withResolvers();
window.ended = () => promise;

document.querySelector('#send').addEventListener('click', async () => {
  const [file] = document.querySelector('#file').files;
  const name = encodeURIComponent(file.name);
  try {
    const answer = await resumableFetch(endpoint, {
      body: file,
      credentials: 'include',
      headers: { 'Content-Disposition': `attachment; filename*=UTF-8''${name}` },
    });
    resolve({ status: answer.status, body: await answer.text(), stored: localStorage.length });
  } catch (error) {
    resolve({ error: `${error} ${error.cause}` });
  }
});
