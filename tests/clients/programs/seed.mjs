// The program that wherry began from, unchanged but for base URL and token.
import Gradient from '@digitalocean/gradient';

const client = new Gradient({
  baseURL: process.env['WHERRY_URL'],
  accessToken: process.env['WHERRY_TOKEN'],
});

const imageID = Number(process.argv[2]);
const action = await client.gpuDroplets.images.actions.create(imageID, { type: 'convert' });

console.log(action.id);
