-- Publishes an assured event once, however often it is sent. Returns how many have subscribed to it, -1 if it was
-- published before, or the name of a client that is there and whose stream is full; then nothing was done.
local publisher, number, topic, event, retain, bound, keep = unpack(ARGV)
local sent = 'shunt:sent:' .. publisher
if tonumber(redis.call('GET', sent) or '0') >= tonumber(number) then
  return -1
end
local clients = takers(topic)
for _, client in ipairs(clients) do
  if redis.call('XLEN', 'shunt:queue:' .. client) >= tonumber(bound)
    and redis.call('EXISTS', 'shunt:alive:' .. client) == 1 then
    return client
  end
end
redis.call('SET', sent, number, 'EX', keep)
if retain == '1' then
  redis.call('HSET', 'shunt:retained', topic, event)
end
return deliver(topic, event, clients, bound)
