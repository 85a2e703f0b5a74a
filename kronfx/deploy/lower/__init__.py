"""The pass that lowers linear maps, and keeps what lies between them in the layout that suits both."""
