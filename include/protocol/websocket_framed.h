#ifndef PROTOCOL_WEBSOCKET_FRAMED_H
#define PROTOCOL_WEBSOCKET_FRAMED_H

/*
 * MQTT's messages inside WebSocket (MQTT 3.1.1 and 5.0, 6): each packet in a binary frame of its
 * own, so that whatever ends with a message ends with a frame. Pure functions over runs. Any
 * thread.
 */

#include "base/wire.h"

extern const struct wire_format websocket_mqtt_format, websocket_mqtt5_format;

#endif
